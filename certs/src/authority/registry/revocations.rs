//! What was taken back.

use std::time::{Duration, SystemTime};

use lineside_wire::{NodeId, REVOKED_MAX};

use super::{ListFull, Registry, RevokedSerial, seconds};
use crate::authority::IssuedRow;

/// What a revocation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::authority) struct Revoked {
    /// The certificates that it ended.
    pub(in crate::authority) rows: Vec<IssuedRow>,
    /// Whether there is anything to publish.
    pub(in crate::authority) changed: bool,
}

impl Registry {
    /// Whether a certificate or its holder was taken back.
    pub(in crate::authority) fn is_revoked(&self, node: NodeId, serial: &str) -> bool {
        self.is_node_revoked(node) || self.revoked_serials.contains_key(serial)
    }

    pub(in crate::authority) fn is_node_revoked(&self, node: NodeId) -> bool {
        self.revoked_nodes.contains_key(&node)
    }

    /// Takes back a node's id for ever, and all of its certificates that are not over.
    pub(in crate::authority) fn revoke_node(
        &mut self,
        node: NodeId,
        now: SystemTime,
    ) -> Result<Revoked, ListFull> {
        self.forget_what_is_over(now);
        let now = seconds(now);
        let live = |row: &&IssuedRow| row.node == node && now < row.not_after && row.revoked.is_none();
        let rows: Vec<IssuedRow> = self.issued.iter().filter(live).cloned().collect();
        let is_new = !self.is_node_revoked(node);
        self.check_room(rows.len() + usize::from(is_new))?;
        self.revoked_nodes.entry(node).or_insert(now);
        let rows: Vec<IssuedRow> = rows.into_iter().map(|row| self.end(row, now)).collect();
        Ok(Revoked { changed: is_new || !rows.is_empty(), rows })
    }

    /// Takes back one certificate. One that is not known here ends `longest` from now at the latest.
    pub(in crate::authority) fn revoke_serial(
        &mut self,
        serial: &str,
        longest: Duration,
        now: SystemTime,
    ) -> Result<Revoked, ListFull> {
        self.forget_what_is_over(now);
        let now = seconds(now);
        if self.revoked_serials.contains_key(serial) {
            return Ok(Revoked::default());
        }
        match self.issued.iter().find(|row| row.serial == serial).cloned() {
            Some(row) if row.not_after <= now => Ok(Revoked::default()),
            Some(row) => {
                self.check_room(1)?;
                Ok(Revoked { rows: vec![self.end(row, now)], changed: true })
            }
            None => {
                self.check_room(1)?;
                let ends = now.saturating_add(longest.as_secs());
                let revoked = RevokedSerial { generation: None, at: now, ends };
                self.revoked_serials.insert(serial.to_owned(), revoked);
                Ok(Revoked { rows: Vec::new(), changed: true })
            }
        }
    }

    /// The serial numbers that an authority's list holds, with the time of each.
    pub(super) fn serials_of(&self, generation: u32) -> Vec<(String, u64)> {
        let own = |revoked: &RevokedSerial| revoked.generation.is_none_or(|of| of == generation);
        let serials = self.revoked_serials.iter().filter(|(_, revoked)| own(revoked));
        serials.map(|(serial, revoked)| (serial.clone(), revoked.at)).collect()
    }

    /// Whether there is room for more.
    pub(super) fn check_room(&self, more: usize) -> Result<(), ListFull> {
        match self.revoked_nodes.len() + self.revoked_serials.len() + more <= REVOKED_MAX {
            true => Ok(()),
            false => Err(ListFull),
        }
    }

    /// Ends a certificate that is known here.
    fn end(&mut self, row: IssuedRow, now: u64) -> IssuedRow {
        let revoked = RevokedSerial { generation: Some(row.generation), at: now, ends: row.not_after };
        self.revoked_serials.entry(row.serial.clone()).or_insert(revoked);
        for known in self.issued.iter_mut().filter(|known| known.serial == row.serial) {
            known.revoked = Some(now);
        }
        IssuedRow { revoked: Some(now), ..row }
    }
}
