//! What the cluster thinks of a member's life. Text on the wire, so that a list with a word of a later release can be
//! read all the same.

use std::{fmt, str::FromStr};

/// What the cluster thinks of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Answers.
    Alive,
    /// Did not answer somebody lately; counts as alive until it had time to object.
    Suspect,
    /// Is gone without a word.
    Down,
    /// Said goodbye.
    Left,
    /// Lost its id by the cluster's trust list, whatever gossip says of its life.
    Revoked,
}

impl Standing {
    /// The name in member lists.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "left",
            Self::Revoked => "revoked",
        }
    }

    /// Whether the member takes part in the cluster, and calls may go there.
    #[must_use]
    pub const fn is_present(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no standing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no member can be {0:?}: alive, suspect, down, left and revoked are all there is")]
pub struct InvalidStanding(String);

impl FromStr for Standing {
    type Err = InvalidStanding;

    fn from_str(text: &str) -> Result<Self, InvalidStanding> {
        [Self::Alive, Self::Suspect, Self::Down, Self::Left, Self::Revoked]
            .into_iter()
            .find(|standing| standing.as_str() == text)
            .ok_or_else(|| InvalidStanding(text.chars().take(32).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_has_one_spelling() {
        let all = [Standing::Alive, Standing::Suspect, Standing::Down, Standing::Left, Standing::Revoked];
        for standing in all {
            assert_eq!(standing.to_string().parse(), Ok(standing));
        }
        assert!("Alive".parse::<Standing>().is_err() && "".parse::<Standing>().is_err());
    }
}
