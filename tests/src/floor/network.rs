//! The network between members: a relay before each one whose plan asks for it.

use lineside_faults::relay::{Counts, Relay, Weather};

use super::Floor;
use crate::Plan;

impl Floor {
    /// Opens a relay before a member whose plan asks for one, and has the member announce it. The seed of its chances is
    /// its number: the same story meets the same weather.
    pub(super) async fn relayed(&mut self, plan: Plan) -> Plan {
        if !plan.relayed {
            return plan;
        }
        if !self.relays.contains_key(&plan.name) {
            let seed = 1 + u64::try_from(self.relays.len()).expect("a few members");
            let relay = Relay::open(seed).await.expect("a free port");
            self.relays.insert(plan.name.clone(), relay);
        }
        let address = self.relays[&plan.name].address();
        plan.set("member.advertise", address)
    }

    /// The weather on a member's link: for what comes to it, and for what goes from it. Fair on both sides ends it.
    ///
    /// It covers what others ask of the member on connections that they dialled, and what it says on its own to members
    /// behind relays. A door's calls to nodes go from ports of their own: they meet the weather of the nodes, and the
    /// door's own only where the door is asked.
    ///
    /// # Panics
    /// There is no relay before it.
    pub fn weather(&self, name: &str, towards: Weather, back: Weather) {
        self.relays.get(name).expect("a relay before it").weather(towards, back);
        let own = self.member(name).address();
        for (_, relay) in self.relays.iter().filter(|(other, _)| *other != name) {
            relay.weather_of(own, back, towards);
        }
    }

    /// The same weather on the way to each member with a relay, and on the way back.
    pub fn weather_everywhere(&self, weather: Weather) {
        self.relays.values().for_each(|relay| relay.weather(weather, weather));
    }

    /// What became of the packets at all relays together.
    #[must_use]
    pub fn packets(&self) -> Counts {
        self.relays.values().map(Relay::counts).fold(Counts::default(), |sum, one| Counts {
            passed: sum.passed + one.passed,
            lost: sum.lost + one.lost,
            too_long: sum.too_long + one.too_long,
            damaged: sum.damaged + one.damaged,
            doubled: sum.doubled + one.doubled,
        })
    }
}
