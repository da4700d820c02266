//! Two gateways over the same nodes: neither sees the other, each sees what the nodes report.

use std::collections::VecDeque;

use super::*;

/// How long a node takes for one call, in a model of the cluster where all begin and end together.
const RUN: Duration = Duration::from_millis(10);

struct Node {
    slots: usize,
    calls: VecDeque<(usize, Lease)>,
    served: usize,
}

/// Gateways that keep their callers' calls in flight, and nodes that run them in their order.
struct Line {
    gateways: Vec<(Balancer, usize)>,
    nodes: BTreeMap<NodeId, Node>,
    /// Whether answers tell the node's load.
    reports: bool,
    now: Instant,
}

impl Line {
    /// `callers` of each gateway, `slots` of each node.
    fn new(callers: &[usize], slots: &[(&'static str, u32)]) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let candidates: Vec<_> =
            slots.iter().map(|(name, slots)| Candidate { slots: *slots, ..node(name) }).collect();
        let gateway = |(seed, callers): (u64, &usize)| {
            let balancer = Balancer::new(Balancing::default(), &mut StdRng::seed_from_u64(seed), now);
            balancer.update(candidates.clone(), now);
            (balancer, *callers)
        };
        let idle = |slots: u32| Node { slots: slots as usize, calls: VecDeque::new(), served: 0 };
        Self {
            gateways: (0..).zip(callers).map(gateway).collect(),
            nodes: slots.iter().map(|(name, slots)| (id(name), idle(*slots))).collect(),
            reports: true,
            now,
        }
    }

    /// Every caller without an answer to wait for sends its next call; then each node runs what it has slots for.
    fn turn(&mut self) {
        for (gateway, (balancer, callers)) in self.gateways.iter().enumerate() {
            let calls = self.nodes.values().flat_map(|node| &node.calls);
            let in_flight = calls.filter(|(of, _)| *of == gateway).count();
            for _ in in_flight..*callers {
                let lease = balancer.lease(Wanted::Model(&add(), None), &[], self.now).unwrap();
                self.nodes.get_mut(&lease.node()).unwrap().calls.push_back((gateway, lease));
            }
        }
        self.now += RUN;
        for node in self.nodes.values_mut() {
            for _ in 0..node.slots.min(node.calls.len()) {
                let (gateway, lease) = node.calls.pop_front().unwrap();
                let left = u32::try_from(node.calls.len()).unwrap();
                let load = self.reports.then_some(LoadReport {
                    running: 0,
                    queued: left,
                    slots: 1,
                    limit: 0,
                    call_us: 0,
                });
                self.gateways[gateway].0.report(lease, Outcome::Answered { load, took: RUN }, self.now);
                node.served += 1;
            }
        }
    }

    fn run(&mut self, turns: usize) -> BTreeMap<String, usize> {
        self.nodes.values_mut().for_each(|node| node.served = 0);
        (0..turns).for_each(|_| self.turn());
        self.nodes.iter().map(|(node, state)| (name_of(*node), state.served)).collect()
    }
}

#[test]
fn unequal_gateways_share_unequal_nodes_by_their_slots() {
    let mut line = Line::new(&[2, 10], &[("press", 1), ("weld", 3)]);
    line.run(10);
    let served = line.run(100);
    // Twelve callers keep all four slots at work only if no node waits while the other has a queue.
    assert_eq!(served, [("press".to_owned(), 100), ("weld".to_owned(), 300)].into());
}

#[test]
fn a_gateway_keeps_away_from_the_node_that_another_one_fills() {
    // How many turns end with a call of the second gateway in the line of the full node.
    let strays = |reports| {
        let mut line = Line::new(&[6, 2], &[("press", 1), ("weld", 1)]);
        line.reports = reports;
        // The first gateway knows only this node, and keeps it full.
        line.gateways[0].0.update(vec![node("press")], line.now);
        line.run(10);
        let stray = |_: &u8| {
            line.turn();
            line.nodes[&id("press")].calls.iter().any(|(gateway, _)| *gateway == 1)
        };
        (0..50).filter(stray).count()
    };
    assert_eq!(strays(true), 0);
    assert!(10 < strays(false), "it is the reports that keep it away");
}
