//! Members that are started once more, as the same machines would be: same directories, same addresses.

use super::Floor;
use crate::{Member, Plan};

impl Floor {
    /// Starts a member that ended.
    pub async fn restart(&mut self, name: &str) {
        self.restart_as(name, |plan| plan).await;
    }

    /// The same, with something changed.
    pub async fn restart_as(&mut self, name: &str, change: impl FnOnce(Plan) -> Plan) {
        let old = self.members.remove(name).expect("a member of that name");
        let plan = once_more(&old);
        drop(old);
        self.begin(change(plan)).await;
    }

    /// Kills all members and starts them again all at one time, as after a power cut. Nobody is told of another: what
    /// they know of each other they remember.
    pub async fn restart_all_at_once(&mut self) {
        let mut old = std::mem::take(&mut self.members);
        old.values_mut().for_each(Member::kill);
        let plans: Vec<_> = old.values().map(once_more).collect();
        drop(old);
        let names: Vec<_> = plans.iter().map(|plan| plan.name.clone()).collect();
        for plan in plans {
            self.launch(plan, &[]);
        }
        for name in names {
            self.is_up(&name).await;
        }
    }
}

fn once_more(old: &Member) -> Plan {
    let plan = old.plan().clone().set("member.listen", old.address());
    if plan.command == "node" { plan } else { plan.set("gateway.http", old.http_address()) }
}
