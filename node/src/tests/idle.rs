//! That threads with nothing to do do nothing.

use std::{fs, thread, time::Duration};

use super::{
    floor::{Floor, PATIENCE, Request, config},
    workshop::Workshop,
};

/// Looks in a row, some milliseconds apart, that must find no thread at work. A thread that spins works in each slice
/// that it gets, of which there are many in so long a time, also beside others.
const LOOKS: usize = 100;

/// How many threads of this process have a name that begins so, and the time that they have computed, in the system's
/// ticks. The system keeps fifteen bytes of a name.
fn at_work(name: &str) -> (usize, u64) {
    let ticks = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        head.split_once('(')?.1.starts_with(name).then_some(())?;
        // The times in user code and in the kernel: the 14th and 15th field.
        let times = rest.split_whitespace().skip(11).take(2);
        times.map(|time| time.parse::<u64>().ok()).sum::<Option<u64>>()
    };
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks.filter_map(|task| ticks(task.ok()?)).fold((0, 0), |(count, sum), ticks| (count + 1, sum + ticks))
}

/// Waits until as many threads as this have names that begin so, and none of them computes any more.
pub(crate) fn until_idle(name: &str, count: usize) {
    let (mut before, mut same) = ((0, 0), 0);
    for _ in 0..PATIENCE.as_millis() / 2 {
        let now = at_work(name);
        same = if now == before && now.0 == count { same + 1 } else { 0 };
        before = now;
        if same == LOOKS {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
    panic!("of the {} threads of {name} some are never idle", before.0);
}

#[tokio::test]
async fn sessions_without_a_call_do_not_compute() {
    let joins = "[batching]\nmode = \"on\"\nmax_size = 8\nmax_delay = \"1ms\"\n";
    let workshop = Workshop::with(&[
        ("idle-1.onnx", "echo"),
        ("idle-2/1/model.onnx", "echo"),
        ("idle-2/model.toml", joins),
    ]);
    let floor = Floor::with_engine(config(&workshop.models(), 3, 9), workshop.engine());
    floor.ready().await;
    until_idle("lineside-idle-", 6);
    for model in ["idle-1", "idle-2", "idle-2"] {
        floor.send(Request::of(model).floats("x", &[2], &[1.0, 2.0])).await.unwrap();
    }
    until_idle("lineside-idle-", 6);
}
