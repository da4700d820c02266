//! The rules by which a door chooses nodes and tries calls again. They change while it is open: whoever looks into a
//! node that rests, or a model whose calls are slow, does not restart a door for it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use lineside_client::{Balancer, Balancing, Tries};
use tokio::time::Instant;

use crate::config::Gateway;

/// What all shards of a door go by.
pub(super) struct Rules {
    /// Chooses nodes. What it has learned of them outlasts a change.
    pub(super) balancer: Arc<Balancer>,
    tries: ArcSwap<Tries>,
}

impl Rules {
    /// Those of the start.
    pub(super) fn new(gateway: &Gateway) -> Arc<Self> {
        let balancer = Balancer::new(balancing(gateway), &mut rand::rng(), Instant::now().into_std());
        Arc::new(Self { balancer: Arc::new(balancer), tries: ArcSwap::from_pointee(tries(gateway)) })
    }

    /// Puts others in force: for nodes at once, for tries from the next call on.
    pub(super) fn put_in_force(&self, gateway: &Gateway) {
        self.balancer.set(balancing(gateway));
        self.tries.store(Arc::new(tries(gateway)));
    }

    /// How often one request is tried.
    pub(super) fn tries(&self) -> Arc<Tries> {
        self.tries.load_full()
    }
}

/// How nodes are chosen, and when they rest.
fn balancing(gateway: &Gateway) -> Balancing {
    let small = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    Balancing {
        policy: gateway.balancing,
        eject_failures: gateway.eject_failures,
        eject_success_percent: small(gateway.eject_success_percent),
        eject_latency_times: small(gateway.eject_latency_times),
        bar_min: gateway.eject_time,
        bar_max: gateway.eject_time_max,
        slow_start: gateway.slow_start,
    }
}

fn tries(gateway: &Gateway) -> Tries {
    Tries {
        attempts_max: gateway.attempts_max,
        stall_after: (!gateway.stall_after.is_zero()).then_some(gateway.stall_after),
        // Whatever is no name was refused with the settings.
        hedge: gateway.hedge.iter().filter_map(|name| name.parse().ok()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_tried_again_and_how_changes_with_the_settings() {
        let mut gateway = Gateway::default();
        let rules = Rules::new(&gateway);
        assert_eq!(rules.tries().stall_after, Some(gateway.stall_after));
        (gateway.stall_after, gateway.hedge) = (Duration::ZERO, vec!["add".to_owned()]);
        gateway.eject_failures = const { std::num::NonZeroU8::new(7).expect("7 is not 0") };
        rules.put_in_force(&gateway);
        assert_eq!((rules.tries().stall_after, rules.tries().hedge.len()), (None, 1));
        assert_eq!(rules.balancer.settings().eject_failures.get(), 7);
    }
}
