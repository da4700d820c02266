//! What is wrong with certificates, trust, clocks and disks of the members, and what helps.

use std::time::Duration;

use lineside_client::Standing;
use lineside_wire::{MemberRow, MemberState};

use crate::{
    commands::{connect::label, members::newest_trust},
    member::is_apart,
    output::{ahead, until},
};

/// How long a member's certificate usually lives. Longer ones, of an older release, are no measure for the others.
const LIFETIME: u64 = 14 * 24 * 3600;

/// The part of its life at which a certificate should have been renewed long before.
const RENEWED_BEFORE: u64 = 4;

/// How long a member may go by a trust list that is not the newest: they are passed on within seconds.
const BEHIND_MAX: Duration = Duration::from_secs(10);

/// The members that hold the authority's key.
pub(super) fn holders(rows: &[MemberRow]) -> Vec<String> {
    let holders = present(rows).filter(|(_, member)| member.authority);
    holders.map(|(row, _)| label(rows, row)).collect()
}

/// One line for each thing that is wrong, with the remedy. `now` is in seconds since 1970.
pub(super) fn troubles(rows: &[MemberRow], now: u64) -> Vec<String> {
    let mut told = certificates(rows, now);
    told.extend(behind(rows));
    told.extend(clocks(rows));
    told.extend(doubles(rows));
    told
}

/// One that is not alive is in trouble enough, and said so.
fn present(rows: &[MemberRow]) -> impl Iterator<Item = (&MemberRow, &MemberState)> {
    let alive = rows.iter().filter(|row| row.state.parse() == Ok(Standing::Alive));
    alive.filter_map(|row| Some((row, row.member.as_ref()?)))
}

/// A certificate that has much less time left than the others' was not renewed as theirs were; without anybody to renew
/// them, all are in trouble some day.
fn certificates(rows: &[MemberRow], now: u64) -> Vec<String> {
    let left = |member: &MemberState| member.certificate_expires.saturating_sub(now);
    let known = || present(rows).filter(|(_, member)| member.certificate_expires != 0);
    let has_holder = known().any(|(_, member)| member.authority);
    let longest = known().map(|(_, member)| left(member)).max().unwrap_or(0).min(LIFETIME);
    let usual = if has_holder { longest } else { LIFETIME };
    let short = known().filter(|(_, member)| left(member) < usual / RENEWED_BEFORE);
    let told = short.map(|(row, member)| {
        let (name, until) = (label(rows, row), until(member.certificate_expires, now));
        let remedy = match has_holder {
            true => "its log says why it was not renewed",
            false => "it renews by itself once a member with the authority's key runs",
        };
        match left(member) {
            0 => format!("the certificate of {name} has expired: if its clock is right, let it join anew"),
            _ => format!("the certificate of {name} ends in {until}: {remedy}"),
        }
    });
    told.collect()
}

fn behind(rows: &[MemberRow]) -> Vec<String> {
    let newest = newest_trust(rows);
    let late = present(rows).filter(|(_, member)| (1..newest).contains(&member.trust.number));
    let told = late.map(|(row, member)| {
        format!(
            "{} goes by trust list {}, and {newest} is the newest: if that is so for more than {BEHIND_MAX:?}, see its \
             log",
            label(rows, row),
            member.trust.number
        )
    });
    told.collect()
}

fn clocks(rows: &[MemberRow]) -> Vec<String> {
    let apart = present(rows).filter_map(|(row, _)| Some((row, row.clock_ahead_ms?)));
    let told = apart.filter(|(_, ahead_ms)| is_apart(*ahead_ms)).map(|(row, ahead_ms)| {
        let (name, ahead) = (label(rows, row), ahead(ahead_ms));
        format!(
            "the clock of {name} differs by {ahead} from the answering member's: set the one that is wrong"
        )
    });
    told.collect()
}

fn doubles(rows: &[MemberRow]) -> Vec<String> {
    let double = rows.iter().filter_map(|row| Some((row, row.double?)));
    let told = double.map(|(row, other)| {
        format!(
            "{} runs twice, at {} and {other}, with one identity, as after copying a disk: on one of them stop it, move \
             its identity directory away, and let it join anew (`lineside token create`)",
            label(rows, row),
            row.address
        )
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::connect::tests as floor;

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 24 * 3600;

    fn row(name: &str, days_left: u64, trust: u64) -> MemberRow {
        let mut row = floor::row(name, Vec::new());
        let member = row.member.as_mut().expect("it said something");
        (member.certificate_expires, member.trust.number) = (NOW + days_left * DAY, trust);
        row
    }

    fn held(mut row: MemberRow) -> MemberRow {
        row.member.as_mut().expect("it said something").authority = true;
        row
    }

    #[test]
    fn members_whose_certificates_and_lists_are_fresh_are_in_no_trouble() {
        let rows = [held(row("press", 14, 3)), row("weld", 8, 3), row("old", 365, 3)];
        assert_eq!(troubles(&rows, NOW), [""; 0]);
        assert_eq!(holders(&rows), ["press"]);
    }

    #[test]
    fn a_certificate_that_was_not_renewed_as_the_others_were_is_named() {
        let told = troubles(&[held(row("press", 12, 3)), row("weld", 2, 3), row("paint", 0, 3)], NOW);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("weld ends in 2d") && told[0].contains("log"), "{told:?}");
        assert!(told[1].contains("paint has expired"), "{told:?}");
    }

    #[test]
    fn certificates_of_seconds_are_measured_by_each_other() {
        let seconds = |name, left| {
            let mut row = row(name, 0, 3);
            row.member.as_mut().expect("it said something").certificate_expires = NOW + left;
            row
        };
        assert_eq!(troubles(&[held(seconds("press", 20)), seconds("weld", 10)], NOW), [""; 0]);
    }

    #[test]
    fn without_a_holder_of_the_key_everybody_is_named_in_time() {
        let told = troubles(&[row("press", 3, 3), row("weld", 4, 3)], NOW);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains("press ends in 3d: it renews") && told[0].contains("authority's key"),
            "{told:?}"
        );
    }

    #[test]
    fn an_old_list_a_wrong_clock_and_a_copied_disk_are_named_with_what_helps() {
        let mut rows = [held(row("press", 14, 4)), row("weld", 14, 3), row("paint", 14, 4)];
        rows[1].clock_ahead_ms = Some(-720_000);
        rows[2].double = Some(([10, 0, 0, 9], 7443).into());
        let told = troubles(&rows, NOW);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("weld goes by trust list 3, and 4"), "{told:?}");
        assert!(told[1].contains("clock of weld differs by -12m"), "{told:?}");
        assert!(told[2].contains("paint runs twice") && told[2].contains("10.0.0.9:7443"), "{told:?}");
    }

    #[test]
    fn a_member_that_is_gone_is_in_no_trouble_with_its_certificate() {
        let mut gone = row("weld", 0, 1);
        gone.state = "left".to_owned();
        assert_eq!(troubles(&[held(row("press", 14, 4)), gone], NOW), [""; 0]);
    }
}
