//! A peer that may serve a call, as discovery or the member list tells of it.

use std::{net::SocketAddr, sync::Arc};

use lineside_wire::{LoadReport, ModelName, ModelState, ModelVersion, NodeId, Standing};

/// One version of a model on a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The model.
    pub name: ModelName,
    /// The version.
    pub version: ModelVersion,
    /// Calls go only where it is [`ModelState::Ready`].
    pub state: ModelState,
    /// Or, where nobody else has room, to a node that loads it for the call.
    pub on_demand: bool,
}

/// Which calls a candidate can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serves {
    /// All: a door, which finds the node itself.
    Anything,
    /// Those of these models: a node.
    Models(Vec<Served>),
}

/// A peer that may serve a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub node: NodeId,
    /// Its name for people.
    pub name: Arc<str>,
    /// Where it listens for members.
    pub address: SocketAddr,
    /// What the cluster thinks of it.
    pub standing: Standing,
    /// Whether it takes no new work: it is leaving, or an operator keeps work from it.
    pub draining: bool,
    /// How much work it is to get beside others, in percent of its share by what it can do; 0 counts as 1.
    pub weight: u16,
    /// Counts its starts. A larger one is a new process, which is not blamed for the old one's failures.
    pub epoch: u64,
    /// Calls that it can run at once: its weight. 0 counts as 1.
    pub slots: u32,
    /// What it said last of its load; `None` when it never said anything.
    pub load: Option<LoadReport>,
    /// Which calls it can take.
    pub serves: Serves,
}

/// What a call needs of a candidate.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// Nothing: any member can answer.
    Anything,
    /// A model, in one version or in any.
    Model(&'a ModelName, Option<ModelVersion>),
}

/// Whether a candidate can take a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It can.
    Ready,
    /// It can, once it has loaded the model: the call waits for that.
    OnDemand,
    /// It could, but not now.
    NotNow(ModelState),
    /// It has the model in other versions only.
    OtherVersion,
    /// It does not have the model.
    Unknown,
}

impl Candidate {
    pub(crate) fn fit(&self, wanted: Wanted<'_>) -> Fit {
        let (Serves::Models(models), Wanted::Model(name, version)) = (&self.serves, wanted) else {
            return Fit::Ready;
        };
        let mut fit = Fit::Unknown;
        for served in models.iter().filter(|served| served.name == *name) {
            let is_other = version.is_some_and(|version| version != served.version);
            fit = match served.state {
                _ if is_other && fit == Fit::Unknown => Fit::OtherVersion,
                _ if is_other => continue,
                ModelState::Ready => return Fit::Ready,
                _ if served.on_demand => Fit::OnDemand,
                _ if fit == Fit::OnDemand => continue,
                state => Fit::NotNow(state),
            };
        }
        fit
    }

    /// Whether it takes new work at all.
    pub(crate) const fn is_open(&self) -> bool {
        self.standing.is_present() && !self.draining
    }
}
