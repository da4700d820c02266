//! What people change: tokens, revocations, rotations, the passphrase; and what another holder changed.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lineside_wire::{Role, SignedTrust};
use rand::RngExt as _;
use rcgen::PublicKeyData as _;
use zeroize::Zeroizing;

use super::{
    Authority, AuthorityError, IssuedRow, Revoke, Rotation, TOKEN_LIFETIME_MAX, TokenOrder, check_name,
    keys::{self, Held},
    publish,
    registry::{ListFull, Merged, NewToken, Revoked, seconds},
    transaction::Draft,
};
use crate::{
    Token, TokenId,
    audit::{Event, Line},
    encoding::{from_hex, to_hex},
    pem::write as pem,
    template,
    x509::sha256,
};

/// Longest serial number, in bytes: X.509's limit.
const SERIAL_BYTES_MAX: usize = 20;

impl From<ListFull> for AuthorityError {
    fn from(ListFull: ListFull) -> Self {
        Self::TooManyRevocations
    }
}

impl Draft<'_> {
    /// See [`Authority::create_token`].
    pub(super) fn create_token(&mut self, order: &TokenOrder) -> Result<Token, AuthorityError> {
        if order.role == Role::Admin {
            return Err(AuthorityError::TokenRole(order.role));
        }
        if order.lifetime < Duration::from_secs(1) || TOKEN_LIFETIME_MAX < order.lifetime {
            return Err(AuthorityError::TokenLifetime(order.lifetime));
        }
        order.name.as_deref().map_or(Ok(()), check_name)?;
        self.check_current()?;
        let token = Token {
            authority: self.held.issuing().fingerprint,
            id: TokenId(rand::rng().random()),
            secret: Zeroizing::new(rand::rng().random()),
            addresses: Vec::new(),
        };
        let expires = seconds(self.now + order.lifetime);
        let new = NewToken {
            id: token.id,
            key: *token.key().0,
            role: order.role,
            name: order.name.clone(),
            expires,
        };
        self.registry.add_token(new, self.now).map_err(|_| AuthorityError::TooManyTokens)?;
        self.changed = true;
        self.lines.push(Line {
            token: Some(token.id.to_string()),
            role: Some(order.role),
            name: order.name.clone(),
            ends: Some(expires),
            ..Line::new(Event::TokenCreated)
        });
        Ok(token)
    }

    /// See [`Authority::revoke_token`].
    pub(super) fn revoke_token(&mut self, id: TokenId) -> bool {
        let was_open = self.registry.revoke_token(id, self.now);
        if was_open {
            self.changed = true;
            self.lines.push(Line { token: Some(id.to_string()), ..Line::new(Event::TokenRevoked) });
        }
        was_open
    }

    /// See [`Authority::revoke`].
    pub(super) fn revoke(&mut self, what: &Revoke) -> Result<Vec<IssuedRow>, AuthorityError> {
        self.check_current()?;
        let (revoked, line) = match what {
            Revoke::Node(node) => {
                let line = Line { node: Some(*node), ..Line::new(Event::NodeRevoked) };
                (self.registry.revoke_node(*node, self.now)?, line)
            }
            Revoke::Serial(text) => {
                let serial = serial(text)?;
                let longest = self.authority.lifetimes.longest();
                let revoked = self.registry.revoke_serial(&serial, longest, self.now)?;
                (revoked, Line { serial: Some(serial), ..Line::new(Event::CertificateRevoked) })
            }
        };
        let Revoked { rows, changed } = revoked;
        if !changed {
            return Ok(rows);
        }
        let trust = Some(self.publish()?);
        match what {
            Revoke::Node(_) => self.lines.push(Line { trust, ..line }),
            // A certificate that is known is told below, by name.
            Revoke::Serial(_) if rows.is_empty() => self.lines.push(Line { trust, ..line }),
            Revoke::Serial(_) => {}
        }
        self.lines.extend(rows.iter().map(|row| Line {
            node: Some(row.node),
            role: Some(row.role),
            name: Some(row.name.clone()),
            serial: Some(row.serial.clone()),
            generation: Some(row.generation),
            trust,
            ..Line::new(Event::CertificateRevoked)
        }));
        Ok(rows)
    }

    /// See [`Authority::rotation_start`].
    pub(super) fn rotation_start(&mut self) -> Result<Rotation, AuthorityError> {
        self.check_current()?;
        let files = &self.authority.files;
        let retiring = self.held.issuing();
        if let Some(retiring) = self.registry.retiring() {
            let issuing = self.registry.issuing().number;
            return Err(AuthorityError::Rotating { retiring, issuing });
        }
        let Some(issuer) = &retiring.issuer else {
            return Err(AuthorityError::LeftBehind { issuing: retiring.generation });
        };
        if retiring.not_after <= self.now {
            return Err(AuthorityError::Expired(retiring.not_after));
        }
        let passphrase = self.authority.passphrase();
        let passphrase = passphrase.as_ref().map(|passphrase| passphrase.as_str());
        // Another process may have changed it: two keys under two passphrases would be one too many.
        keys::check_passphrase(files, retiring.generation, passphrase)?;
        let (cluster, name) = (self.registry.cluster, self.registry.name.clone());
        let generation = retiring.generation + 1;
        let key = keys::generate()?;
        let own = template::authority(cluster, &name, generation, self.now)?.self_signed(&key)?;
        let cross = template::cross(cluster, &name, generation, self.now, retiring.not_after)?;
        let cross = cross.signed_by(&key, issuer)?;
        // Until the registry names them, these files are nothing, and the next try replaces them.
        files.write_secret(&files.key_path(generation), &keys::file_text(&key, passphrase))?;
        files.write_public(&files.certificate_path(generation), &own.pem())?;
        files.write_public(&files.cross_path(generation), &cross.pem())?;
        self.registry.begin_rotation(sha256(&key.subject_public_key_info()));
        self.held = Arc::new(Held::load(files, &self.registry, passphrase, Some(&self.held))?);
        let trust = Some(self.publish()?);
        self.lines.push(Line { generation: Some(generation), trust, ..Line::new(Event::RotationStarted) });
        Ok(self.registry.rotation(self.now))
    }

    /// See [`Authority::rotation_finish`].
    pub(super) fn rotation_finish(&mut self) -> Result<Rotation, AuthorityError> {
        self.check_current()?;
        if self.registry.retiring().is_none() {
            return Err(AuthorityError::NotRotating(self.registry.issuing().number));
        }
        let tokens = self.registry.finish_rotation(self.now);
        self.reload()?;
        let trust = Some(self.publish()?);
        let generation = Some(self.registry.issuing().number);
        self.note_revoked(&tokens);
        self.lines.push(Line { generation, trust, ..Line::new(Event::RotationFinished) });
        Ok(self.registry.rotation(self.now))
    }

    /// See [`Authority::merge`].
    pub(super) fn merge(&mut self, told: &SignedTrust) -> Result<bool, AuthorityError> {
        let (seen, trust) = publish::read(told, &self.registry, &self.held)?;
        let before: BTreeSet<u32> = self.generations();
        let number = seen.published.number;
        let merged = self.registry.merge(&seen, self.authority.lifetimes.longest(), self.now)?;
        // What was forgotten because it is over can wait for a change that matters.
        if merged == Merged::Nothing {
            return Ok(false);
        }
        let files = &self.authority.files;
        for root in trust.roots.iter().filter(|root| !before.contains(&root.generation)) {
            files.write_public(
                &files.certificate_path(root.generation),
                &pem("CERTIFICATE", &root.certificate),
            )?;
        }
        self.reload()?;
        match merged {
            Merged::Publish(above) => {
                publish::publish(&mut self.registry, &self.held, above, Some(&trust), self.now)?;
            }
            Merged::Adopted | Merged::Nothing => {}
        }
        self.changed = true;
        let reason = Some(format!("another holder of the key published the trust list {number}"));
        self.lines.push(Line {
            reason,
            trust: Some(self.registry.trust.number),
            ..Line::new(Event::TrustMerged)
        });
        Ok(true)
    }

    pub(super) fn generations(&self) -> BTreeSet<u32> {
        self.registry.generations.iter().map(|generation| generation.number).collect()
    }

    fn reload(&mut self) -> Result<(), AuthorityError> {
        let passphrase = self.authority.passphrase();
        let passphrase = passphrase.as_ref().map(|passphrase| passphrase.as_str());
        let held = Held::load(&self.authority.files, &self.registry, passphrase, Some(&self.held))?;
        self.held = Arc::new(held);
        Ok(())
    }

    fn note_revoked(&mut self, tokens: &[TokenId]) {
        let lines = tokens.iter().map(|id| Line {
            token: Some(id.to_string()),
            reason: Some("its authority is no longer trusted".to_owned()),
            ..Line::new(Event::TokenRevoked)
        });
        self.lines.extend(lines);
    }
}

impl Authority {
    /// Removes the files of generations that were trusted before a change and are not after it.
    pub(super) fn remove_gone(
        &self,
        before: &BTreeSet<u32>,
        after: &BTreeSet<u32>,
    ) -> Result<(), AuthorityError> {
        let files = &self.files;
        for gone in before.difference(after).copied() {
            let paths = [files.key_path(gone), files.next_key_path(gone), files.certificate_path(gone)];
            paths.iter().try_for_each(|path| files.remove(path))?;
        }
        if after.len() == 1 {
            after.iter().try_for_each(|generation| files.remove(&files.cross_path(*generation)))?;
        }
        files.sync()
    }

    /// See [`Authority::set_passphrase`].
    pub(super) fn change_passphrase(
        &self,
        passphrase: Option<&str>,
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        self.transact(now, |draft| {
            let event = if passphrase.is_some() { Event::PassphraseSet } else { Event::PassphraseRemoved };
            self.files.audit(&[Line::new(event)], now)?;
            keys::replace(&self.files, &draft.held, passphrase)
                .inspect_err(|error| draft.note_not_done(error))?;
            self.keep_passphrase(passphrase);
            Ok(())
        })
    }
}

/// Reads a serial number in the bytes that certificates have: as short as they can be, and positive.
fn serial(text: &str) -> Result<String, AuthorityError> {
    let unusable = || AuthorityError::Serial(text.chars().take(80).collect());
    let text = text.trim();
    let even = if text.len().is_multiple_of(2) { text.to_owned() } else { format!("0{text}") };
    let bytes = from_hex(&even).ok_or_else(unusable)?;
    let digits =
        bytes.iter().position(|byte| *byte != 0).map(|first| &bytes[first..]).ok_or_else(unusable)?;
    let serial = match digits[0] & 0x80 {
        0 => digits.to_vec(),
        _ => [&[0], digits].concat(),
    };
    match serial.len() <= SERIAL_BYTES_MAX {
        true => Ok(to_hex(&serial)),
        false => Err(unusable()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_reads_as_it_stands_in_certificates() {
        for (told, read) in
            [("4A0f", "4a0f"), (" 0fF ", "00ff"), ("7f", "7f"), ("80", "0080"), ("0001", "01")]
        {
            assert_eq!(serial(told).unwrap(), read);
        }
        for wrong in ["", "0", "00", "xyz", "4a:0f", "-1", &"4a".repeat(21), &"ff".repeat(20)] {
            assert!(matches!(serial(wrong), Err(AuthorityError::Serial(_))), "{wrong:?} was taken");
        }
    }
}
