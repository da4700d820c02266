//! What was taken back.

use std::time::{Duration, SystemTime};

use lineside_wire::{NodeId, REVOKED_MAX};

use super::{ListFull, Registry, RevokedSerial, seconds};
use crate::authority::IssuedRow;

/// Entries of a list up to which revoking a node adds its certificates' serial numbers.
const NODES_SERIALS_MAX: usize = REVOKED_MAX / 2;

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
        let rows: Vec<IssuedRow> = self.issued.iter().rev().filter(live).cloned().collect();
        let is_new = !self.is_node_revoked(node);
        self.check_room(usize::from(is_new))?;
        self.revoked_nodes.entry(node).or_insert(now);
        // The id ends them all. That handshakes know their serial numbers, too, is worth half of the list: whoever had
        // many certificates issued must not have filled it for those who are to be revoked after him.
        let room = NODES_SERIALS_MAX.saturating_sub(self.revoked_nodes.len() + self.revoked_serials.len());
        let ended = rows.into_iter().zip(1..).map(|(row, count)| match count <= room {
            true => self.end(row, now),
            false => self.mark(row, now),
        });
        let mut rows: Vec<IssuedRow> = ended.collect();
        rows.reverse();
        Ok(Revoked { changed: is_new || !rows.is_empty(), rows })
    }

    /// Whether a certificate of this node was taken back after this one was issued. Whoever had that one may have got this
    /// one with it, so it is not good for another; what a person had issued since then is.
    pub(in crate::authority) fn is_in_doubt(&self, node: NodeId, serial: &str, now: SystemTime) -> bool {
        let now = seconds(now);
        let of_node = || self.issued.iter().filter(|row| row.node == node);
        let issued = of_node().find(|row| row.serial == serial).map_or(0, |row| row.issued);
        of_node().any(|row| now < row.not_after && row.revoked.is_some_and(|at| issued <= at))
    }

    /// How many certificates a node got within this time.
    pub(in crate::authority) fn issued_within(
        &self,
        node: NodeId,
        within: Duration,
        now: SystemTime,
    ) -> usize {
        let since = seconds(now).saturating_sub(within.as_secs());
        self.issued.iter().filter(|row| row.node == node && since < row.issued).count()
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
        self.mark(row, now)
    }

    fn mark(&mut self, row: IssuedRow, now: u64) -> IssuedRow {
        for known in self.issued.iter_mut().filter(|known| known.serial == row.serial) {
            known.revoked = Some(now);
        }
        IssuedRow { revoked: Some(now), ..row }
    }
}
