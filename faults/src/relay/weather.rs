//! What happens to each packet: drawn from a seed, without a socket or a clock.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// What happens to packets in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Share of the packets that are lost; 1 is a cut cable.
    pub loss: f64,
    /// Share that arrives twice.
    pub duplicates: f64,
    /// Share in which one byte is another.
    pub damage: f64,
    /// How long each packet is under way.
    pub delay: Duration,
    /// How much longer at most: packets overtake each other.
    pub jitter: Duration,
    /// Longer packets are lost, as on a path with a smaller MTU; 0 lets all through.
    pub bytes_max: usize,
}

impl Weather {
    /// Nothing happens.
    pub const FAIR: Self = Self {
        loss: 0.0,
        duplicates: 0.0,
        damage: 0.0,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        bytes_max: 0,
    };

    /// Nothing gets through.
    pub const CUT: Self = Self { loss: 1.0, ..Self::FAIR };

    /// The weather of a path that leads through both, one after the other.
    #[must_use]
    pub fn and(self, next: Self) -> Self {
        let either = |one: f64, other: f64| 1.0 - (1.0 - one.clamp(0.0, 1.0)) * (1.0 - other.clamp(0.0, 1.0));
        let bytes_max = match (self.bytes_max, next.bytes_max) {
            (0, any) | (any, 0) => any,
            (one, other) => one.min(other),
        };
        Self {
            loss: either(self.loss, next.loss),
            duplicates: either(self.duplicates, next.duplicates),
            damage: either(self.damage, next.damage),
            delay: self.delay.saturating_add(next.delay),
            jitter: self.jitter.saturating_add(next.jitter),
            bytes_max,
        }
    }
}

/// What becomes of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is lost by chance.
    Lost,
    /// It is lost for its length.
    TooLong,
    /// It gets there.
    Arrives {
        /// After so long.
        after: Duration,
        /// And once more, after so long.
        again_after: Option<Duration>,
        /// With one byte that is another.
        damage: Option<Damage>,
    },
}

/// One byte of a packet that becomes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    at: usize,
    flips: u8,
}

impl Damage {
    /// Changes the byte. A packet that is too short for it stays as it is.
    pub(super) fn apply(self, packet: &mut [u8]) {
        if let Some(byte) = packet.get_mut(self.at) {
            *byte ^= self.flips;
        }
    }
}

/// The chances of one direction. The same seed and the same packets in the same weather meet the same fates.
#[derive(Debug)]
pub(super) struct Sky(StdRng);

impl Sky {
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Decides about one packet of so many bytes.
    ///
    /// Every packet takes as many numbers as any other, so that a share that changes does not change what all the
    /// other shares draw.
    pub(super) fn draw(&mut self, weather: &Weather, bytes: usize) -> Fate {
        let Self(rng) = self;
        let [lost, doubled, damaged, late, later]: [f64; 5] = std::array::from_fn(|_| rng.random());
        let place: u64 = rng.random();
        if weather.bytes_max != 0 && weather.bytes_max < bytes {
            return Fate::TooLong;
        }
        if lost < weather.loss {
            return Fate::Lost;
        }
        let under_way = |share: f64| weather.delay.saturating_add(weather.jitter.mul_f64(share));
        Fate::Arrives {
            after: under_way(late),
            again_after: (doubled < weather.duplicates).then(|| under_way(later)),
            damage: (damaged < weather.damage && bytes != 0).then(|| Damage::at(place, bytes)),
        }
    }
}

impl Damage {
    fn at(place: u64, bytes: usize) -> Self {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let flips = u8::try_from((place >> 32) % 255).unwrap_or(0) + 1; // Never nothing.
        Self { at: usize::try_from(place % bytes).unwrap_or(0), flips }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fates(seed: u64, weather: &Weather, packets: usize) -> Vec<Fate> {
        let mut sky = Sky::new(seed);
        (0..packets).map(|_| sky.draw(weather, 1200)).collect()
    }

    fn count(fates: &[Fate], wanted: impl Fn(&Fate) -> bool) -> usize {
        fates.iter().filter(|fate| wanted(fate)).count()
    }

    const STORM: Weather = Weather {
        loss: 0.2,
        duplicates: 0.1,
        damage: 0.05,
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(20),
        bytes_max: 0,
    };

    #[test]
    fn the_same_seed_gives_the_same_fates_and_another_gives_others() {
        assert_eq!(fates(7, &STORM, 500), fates(7, &STORM, 500));
        assert_ne!(fates(7, &STORM, 500), fates(8, &STORM, 500));
    }

    #[test]
    fn in_fair_weather_every_packet_arrives_once_at_once_and_whole() {
        let arrives = Fate::Arrives { after: Duration::ZERO, again_after: None, damage: None };
        assert_eq!(fates(1, &Weather::FAIR, 1000), vec![arrives; 1000]);
    }

    #[test]
    fn through_a_cut_cable_comes_nothing() {
        assert_eq!(fates(1, &Weather::CUT, 1000), vec![Fate::Lost; 1000]);
    }

    #[test]
    fn the_shares_are_what_was_asked_for() {
        let all = fates(3, &STORM, 10_000);
        let lost = count(&all, |fate| *fate == Fate::Lost);
        assert!((1800..2200).contains(&lost), "{lost} lost");
        let twice =
            count(&all, |fate| matches!(fate, Fate::Arrives { again_after, .. } if again_after.is_some()));
        assert!((680..920).contains(&twice), "{twice} of 8,000 twice");
        let damaged = count(&all, |fate| matches!(fate, Fate::Arrives { damage, .. } if damage.is_some()));
        assert!((310..490).contains(&damaged), "{damaged} of 8,000 damaged");
    }

    #[test]
    fn jitter_lets_packets_overtake_each_other_within_its_bounds() {
        let times: Vec<_> = fates(5, &STORM, 1000)
            .into_iter()
            .filter_map(|fate| match fate {
                Fate::Arrives { after, .. } => Some(after),
                Fate::Lost | Fate::TooLong => None,
            })
            .collect();
        assert!(times.windows(2).any(|pair| pair[1] + Duration::from_millis(5) < pair[0]), "none overtakes");
        let bounds = STORM.delay..=STORM.delay + STORM.jitter;
        assert!(times.iter().all(|time| bounds.contains(time)));
    }

    #[test]
    fn a_share_that_changes_leaves_the_other_draws_alone() {
        let without = fates(9, &Weather { duplicates: 0.0, ..STORM }, 500);
        let with = fates(9, &STORM, 500);
        let lost = |fates: &[Fate]| fates.iter().map(|fate| *fate == Fate::Lost).collect::<Vec<_>>();
        assert_eq!(lost(&without), lost(&with));
    }

    #[test]
    fn a_path_takes_packets_up_to_its_mtu() {
        let weather = Weather { bytes_max: 1200, ..Weather::FAIR };
        let mut sky = Sky::new(1);
        assert_ne!(sky.draw(&weather, 1200), Fate::TooLong);
        assert_eq!(sky.draw(&weather, 1201), Fate::TooLong);
    }

    #[test]
    fn two_links_are_as_bad_as_both() {
        let one = Weather { loss: 0.5, bytes_max: 1400, ..STORM };
        let other = Weather { loss: 0.5, bytes_max: 1200, ..STORM };
        let path = one.and(other);
        assert!((path.loss - 0.75).abs() < 1e-9 && path.bytes_max == 1200);
        assert_eq!(path.delay, STORM.delay * 2);
        assert_eq!(STORM.and(Weather::FAIR).bytes_max, 0);
        assert_eq!(Weather::FAIR.and(one).bytes_max, 1400);
        assert!((Weather::CUT.and(STORM).loss - 1.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn damage_changes_one_byte_of_any_packet(seed: u64, bytes in 1..2000_usize) {
            let weather = Weather { damage: 1.0, ..Weather::FAIR };
            let Fate::Arrives { damage: Some(damage), .. } = Sky::new(seed).draw(&weather, bytes) else {
                panic!("it arrives, with damage");
            };
            let whole = vec![0x55; bytes];
            let mut packet = whole.clone();
            damage.apply(&mut packet);
            prop_assert_eq!(packet.iter().zip(&whole).filter(|(now, before)| now != before).count(), 1);
        }
    }
}
