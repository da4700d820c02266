//! Stories of sequences, in a clock that only the tests move.

use bytes::Bytes;
use lineside_wire::{Executed, Parameters, bytes_tensor};

use super::*;
use crate::{
    check::Fitting,
    settings::{self, Cache, Embed, Predict, Span, State},
    task::Request,
};

const IDLE: Duration = Duration::from_secs(60);

fn spec(name: &str, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype: Datatype::Fp32, shape: shape.to_vec() }
}

/// A model that adds up what it is given: its state is behind the input `x` and before the output `y`.
#[test]
fn what_was_kept_before_a_node_was_out_of_work_is_not_gone_on_with() {
    let floor = Floor::new();
    assert_eq!(floor.sum(part("a").with(START), 2.0), 2.0);
    assert_eq!(floor.sum(part("b").with(START), 3.0), 3.0);
    let running = floor.begin(part("b")).unwrap();
    floor.sequences.forget();
    assert_eq!(floor.code(part("a")), FaultCode::SequenceLost);
    let (outputs, code) = (floor.run(running, 1.0).unwrap(), floor.code(part("b")));
    assert_eq!((number(&outputs[0]), code), (4.0, FaultCode::SequenceLost), "it is answered and not kept");
    assert_eq!(floor.sum(part("a").with(START), 5.0), 5.0);
}

fn signature() -> Signature {
    Signature {
        inputs: vec![spec("x", &[-1]), spec("sum", &[1])],
        outputs: vec![spec("sum_next", &[-1]), spec("y", &[-1])],
    }
}

fn state(input: &str, output: &str) -> State {
    State { input: input.to_owned(), output: output.to_owned(), shape: None }
}

fn settings() -> Settings {
    let sequence =
        settings::Sequence { states: vec![state("sum", "sum_next")], idle_timeout: Span(IDLE), max: 3 };
    Settings { sequence: Some(sequence), ..Settings::default() }
}

fn numbers(name: &str, values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(name, Datatype::Fp32, vec![values.len() as u64], bytes.into()).unwrap()
}

fn number(tensor: &Tensor) -> f32 {
    f32::from_le_bytes(tensor.bytes[..].try_into().unwrap())
}

/// The sequences of one model, and a clock.
struct Floor {
    sequences: Sequences,
    now: Instant,
}

/// One request in the making.
#[derive(Clone, Default)]
struct Part {
    id: Option<&'static str>,
    flags: Vec<(&'static str, bool)>,
    brings: Option<Tensor>,
}

fn part(id: &'static str) -> Part {
    Part { id: Some(id), ..Part::default() }
}

fn without_id() -> Part {
    Part::default()
}

impl Part {
    fn with(mut self, flag: &'static str) -> Self {
        self.flags.push((flag, true));
        self
    }

    fn bringing(mut self, state: &Tensor) -> Self {
        self.brings = Some(state.clone());
        self
    }
}

impl Floor {
    fn new() -> Self {
        Self::with(&settings(), "ab12")
    }

    fn with(settings: &Settings, sha256: &str) -> Self {
        let sequences = Sequences::new(settings, &signature(), sha256).unwrap().unwrap();
        Self { sequences, now: Instant::now() }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn step(&self, part: Part) -> Result<Step, Fault> {
        let context = CallContext { session: part.id.map(str::to_owned), ..CallContext::default() };
        let flags = part.flags.into_iter().map(|(name, value)| (name.to_owned(), Parameter::Bool(value)));
        let params = InferParams {
            model: "counter".parse().unwrap(),
            version: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            parameters: flags.collect::<Parameters>(),
            task: None,
            classification: Default::default(),
        };
        let mut given: Vec<_> = part.brings.into_iter().collect();
        given.push(numbers("x", &[0.0]));
        let step = self.sequences.step(&context, &params, &mut given, self.now);
        if step.is_ok() {
            assert_eq!(given, [numbers("x", &[0.0])], "the model's own input stays");
        }
        step
    }

    fn begin(&self, part: Part) -> Result<Begun<'_>, Fault> {
        self.sequences.begin(&self.step(part)?, self.now)
    }

    /// Runs the model on a number.
    fn run(&self, begun: Begun<'_>, x: f32) -> Result<Vec<Tensor>, Fault> {
        let fitting = Fitting { inputs: vec![numbers("x", &[x])], wanted: vec![0] };
        let request = Request::Tensors { fitting, classes: vec![None], rows: 1 };
        let Some(Request::Tensors { fitting: Fitting { inputs, wanted }, classes, rows: 1 }) =
            begun.around(&request)
        else {
            panic!("a request of tensors")
        };
        assert_eq!((wanted, classes), (vec![1, 0], vec![None, None]), "the state behind what is wanted");
        let [x, sum] = &inputs[..] else { panic!("{inputs:?}") };
        assert_eq!((&*x.name, &*sum.name), ("x", "sum"));
        let sum = number(x) + number(sum);
        begun.keep(vec![numbers("y", &[sum]), numbers("sum_next", &[sum])], self.now)
    }

    /// Adds a number; gives the sum, and the state where it is wanted.
    fn add(&self, part: Part, x: f32) -> Result<(f32, Option<Tensor>), Fault> {
        let mut outputs = self.run(self.begin(part)?, x)?;
        let state = (outputs.len() == 2).then(|| outputs.pop().unwrap());
        assert_eq!((outputs.len(), &*outputs[0].name), (1, "y"));
        Ok((number(&outputs[0]), state))
    }

    fn sum(&self, part: Part, x: f32) -> f32 {
        let (sum, state) = self.add(part, x).unwrap();
        assert!(state.is_none(), "nobody asked for the state");
        sum
    }

    fn code(&self, part: Part) -> FaultCode {
        self.add(part, 1.0).unwrap_err().code
    }

    fn bytes(&self) -> u64 {
        self.sequences.kept().bytes
    }

    fn left(&self) -> usize {
        let mut kept = self.sequences.kept();
        kept.forget_idle(IDLE, self.now);
        kept.sequences.len()
    }
}

#[test]
fn callers_see_a_model_without_its_state() {
    let visible = Floor::new().sequences.visible(&signature());
    assert_eq!(visible, Signature { inputs: vec![spec("x", &[-1])], outputs: vec![spec("y", &[-1])] });
}

#[test]
fn each_sequence_goes_on_where_it_was_and_ends_when_it_says_so() {
    let floor = Floor::new();
    assert_eq!(floor.sum(part("a").with(START), 1.0), 1.0);
    assert_eq!(floor.sum(part("b").with(START), 10.0), 10.0);
    assert_eq!(floor.sum(part("a"), 2.0), 3.0);
    assert_eq!(floor.sum(part("b"), 20.0), 30.0);
    assert_eq!((floor.left(), floor.bytes()), (2, 8));
    assert_eq!(floor.sum(part("a").with(END), 4.0), 7.0);
    assert_eq!((floor.left(), floor.bytes()), (1, 4));
    assert_eq!(floor.code(part("a")), FaultCode::SequenceLost);
    // As with Triton, a sequence that is there begins anew.
    assert_eq!(floor.sum(part("b").with(START), 5.0), 5.0);
    assert_eq!(floor.bytes(), 4);
    // A whole one in one request.
    assert_eq!(floor.sum(part("c").with(START).with(END), 5.0), 5.0);
    assert_eq!(floor.left(), 1);
}

#[test]
fn what_never_began_or_was_idle_for_too_long_is_lost_in_words() {
    let mut floor = Floor::new();
    let fault = floor.add(part("a"), 1.0).unwrap_err();
    assert_eq!((fault.code, fault.executed), (FaultCode::SequenceLost, Executed::No));
    assert!(fault.message.contains("\"a\"") && fault.message.contains("60s"), "{fault}");
    assert!(fault.message.ends_with("begin it again with sequence_start"), "{fault}");

    floor.sum(part("a").with(START), 1.0);
    floor.sum(part("b").with(START), 1.0);
    floor.pass(IDLE);
    assert_eq!(floor.sum(part("a"), 1.0), 2.0, "just in time");
    floor.pass(Duration::from_millis(1));
    assert_eq!(floor.code(part("b")), FaultCode::SequenceLost);
    assert_eq!((floor.left(), floor.bytes()), (1, 4));
    floor.pass(IDLE);
    assert_eq!((floor.left(), floor.bytes()), (0, 0));
}

#[test]
fn a_sequence_does_not_become_idle_while_its_request_waits_or_runs() {
    let mut floor = Floor::new();
    floor.sum(part("a").with(START), 1.0);
    floor.pass(IDLE);
    let waiting = floor.step(part("a")).unwrap();
    floor.pass(IDLE);
    assert_eq!(floor.left(), 1);
    let running = floor.sequences.begin(&waiting, floor.now).unwrap();
    let late = floor.now + IDLE * 5;
    assert_eq!(floor.sequences.expire(late), Some(late + LOOK_PAUSE));
    floor.run(running, 1.0).unwrap();
    assert_eq!(floor.sum(part("a"), 1.0), 3.0);
}

#[test]
fn idle_sequences_are_looked_for_when_the_first_is_due_and_not_oftener() {
    let mut floor = Floor::new();
    let begun = floor.now;
    assert_eq!(floor.sequences.expire(begun), None, "nothing is there to be looked for");
    floor.sum(part("a").with(START), 1.0);
    floor.pass(Duration::from_secs(20));
    floor.sum(part("b").with(START), 1.0);
    let due = begun + IDLE + LOOK_PAUSE;
    assert_eq!(floor.sequences.expire(floor.now), Some(floor.now + LOOK_PAUSE), "a request has just looked");
    floor.pass(Duration::from_secs(1));
    assert_eq!(floor.sequences.expire(floor.now), Some(due));
    assert_eq!(floor.sequences.expire(due), Some(due + Duration::from_secs(20)));
    assert_eq!(floor.bytes(), 4, "without any request");
    assert_eq!(floor.sequences.expire(due + Duration::from_secs(20)), None);
    assert_eq!(floor.bytes(), 0);
}

#[test]
fn a_run_that_fails_leaves_its_sequence_as_it_was() {
    let floor = Floor::new();
    floor.sum(part("a").with(START), 1.0);
    drop(floor.begin(part("a")).unwrap());
    assert_eq!(floor.sum(part("a"), 1.0), 2.0);
    // Also one that was to begin anew, or to end.
    drop(floor.begin(part("a").with(START)).unwrap());
    drop(floor.begin(part("a").with(END)).unwrap());
    assert_eq!(floor.sum(part("a"), 1.0), 3.0);
    // One that did not begin is not there.
    drop(floor.begin(part("b").with(START)).unwrap());
    assert_eq!(floor.code(part("b")), FaultCode::SequenceLost);
    assert_eq!((floor.left(), floor.bytes()), (1, 4));
}

#[test]
fn a_state_that_the_model_cannot_take_again_is_not_kept() {
    let floor = Floor::new();
    floor.sum(part("a").with(START), 1.0);
    let begun = floor.begin(part("a")).unwrap();
    let fault = begun.keep(vec![numbers("y", &[1.0]), numbers("sum_next", &[1.0, 2.0])], floor.now);
    let fault = fault.unwrap_err();
    assert_eq!(fault.code, FaultCode::InferenceFailed);
    assert!(fault.message.contains("[2]") && fault.message.contains("\"sum\""), "{fault}");
    assert_eq!(floor.sum(part("a"), 1.0), 2.0);
}

#[test]
fn two_requests_of_a_sequence_never_run_on_one_state() {
    let floor = Floor::new();
    let first = floor.begin(part("a").with(START)).unwrap();
    assert_eq!(floor.code(part("a")), FaultCode::Busy);
    assert_eq!(floor.code(part("a").with(START)), FaultCode::Busy);
    floor.run(first, 1.0).unwrap();
    assert_eq!(floor.sum(part("a"), 1.0), 2.0);
}

#[test]
fn there_are_no_more_sequences_than_the_settings_say() {
    let mut floor = Floor::new();
    for id in ["a", "b", "c"] {
        floor.sum(part(id).with(START), 1.0);
        floor.pass(Duration::from_secs(10));
    }
    let fault = floor.add(part("d").with(START), 1.0).unwrap_err();
    assert_eq!((fault.code, fault.executed), (FaultCode::Busy, Executed::No));
    assert_eq!(fault.retry_after_ms, Some(30_000), "{fault}");
    assert!(fault.message.contains("3 sequences"), "{fault}");
    // Who keeps its own state takes no place, and those that are there go on.
    floor.add(without_id().with(START).with(STATE), 1.0).unwrap();
    floor.sum(part("b"), 1.0);
    floor.pass(Duration::from_secs(31));
    floor.sum(part("d").with(START), 1.0);
    assert_eq!(floor.code(part("a")), FaultCode::SequenceLost);
}

#[test]
fn a_request_without_a_sequence_is_told_both_ways() {
    let floor = Floor::new();
    for part in [without_id(), without_id().with(START), without_id().with(END), without_id().with(STATE)] {
        let fault = floor.step(part).unwrap_err();
        assert_eq!(fault.code, FaultCode::InvalidParams);
        for word in ["counter", "sequence_id", START, STATE] {
            assert!(fault.message.contains(word), "{word}: {fault}");
        }
    }
    assert_eq!(floor.sum(without_id().with(START).with(END), 2.0), 2.0, "a whole sequence in one request");
}

#[test]
fn a_caller_that_keeps_the_state_goes_on_at_any_node() {
    let (floor, other) = (Floor::new(), Floor::new());
    let (sum, state) = floor.add(without_id().with(START).with(STATE), 1.0).unwrap();
    assert_eq!((sum, floor.left()), (1.0, 0));
    let (sum, next) = other.add(without_id().bringing(&state.unwrap()), 2.0).unwrap();
    assert_eq!((sum, other.left(), other.bytes()), (3.0, 0, 0));
    let next = next.unwrap();
    assert_eq!(next.shape.dims(), [1]);
    // The same state again: nothing was remembered.
    assert_eq!(floor.add(without_id().bringing(&next), 5.0).unwrap().0, 8.0);
    assert_eq!(floor.add(without_id().bringing(&next), 6.0).unwrap().0, 9.0);
    // The last one needs no further state.
    assert_eq!(other.sum(without_id().with(END).bringing(&next), 7.0), 10.0);
}

#[test]
fn a_node_can_go_on_with_a_state_that_was_taken_along() {
    let (gone, floor) = (Floor::new(), Floor::new());
    let (_, state) = gone.add(part("a").with(START).with(STATE), 1.0).unwrap();
    let state = state.unwrap();
    assert_eq!(gone.sum(part("a"), 1.0), 2.0, "it is kept at the node, too");
    assert_eq!(floor.sum(part("a").with(START).bringing(&state), 5.0), 6.0);
    assert_eq!(floor.sum(part("a"), 1.0), 7.0);
    let fault = floor.step(part("a").bringing(&state)).unwrap_err();
    assert!(fault.message.contains("add sequence_start"), "{fault}");
}

#[test]
fn a_state_of_another_model_and_what_is_none_are_refused_in_words() {
    let (floor, other) = (Floor::new(), Floor::with(&settings(), "cd34"));
    let (_, state) = other.add(without_id().with(START).with(STATE), 1.0).unwrap();
    let refused = |state: Tensor| floor.step(without_id().bringing(&state)).unwrap_err();
    let fault = refused(state.unwrap());
    assert_eq!(fault.code, FaultCode::InvalidParams);
    assert!(fault.message.contains("of another model or version"), "{fault}");
    let text = |bytes: Vec<u8>, dims: &[u64]| {
        Tensor::new(STATE, Datatype::Bytes, dims.to_vec(), Bytes::from(bytes)).unwrap()
    };
    let fault = refused(text(bytes_tensor([&b"no state"[..]]).unwrap(), &[1]));
    assert!(fault.message.contains("damaged"), "{fault}");
    let fault = refused(text(bytes_tensor([&b"a"[..], b"b"]).unwrap(), &[2]));
    assert!(fault.message.contains("one element of BYTES"), "{fault}");
    refused(text(Vec::new(), &[0]));
    refused(numbers(STATE, &[1.0]));
}

#[test]
fn names_and_flags_that_cannot_be_meant_are_refused() {
    let floor = Floor::new();
    let long: &'static str = Box::leak("x".repeat(ID_BYTES_MAX + 1).into_boxed_str());
    let fault = floor.step(part(long).with(START)).unwrap_err();
    assert!(fault.message.contains("257 bytes"), "{fault}");
    floor.step(part(&long[1..]).with(START)).unwrap();
    // An empty name is none.
    floor.step(part("").with(START)).unwrap_err();
}

#[test]
fn all_states_together_are_bounded() {
    const MIB: usize = 1 << 20;
    let mut big = signature();
    big.inputs[1].shape = vec![-1];
    let settings = Settings {
        sequence: Some(settings::Sequence { max: 1_000, ..settings().sequence.unwrap() }),
        ..Settings::default()
    };
    let sequences = Sequences::new(&settings, &big, "ab12").unwrap().unwrap();
    let floor = Floor { sequences, now: Instant::now() };
    // Memory that is not written to is none.
    let large = Bytes::from(vec![0; 64 * MIB]);
    let state = Tensor::new("sum_next", Datatype::Fp32, vec![16 * MIB as u64], large).unwrap();
    let keep = |id| floor.begin(part(id).with(START)).unwrap().keep(vec![state.clone()], floor.now);
    floor.sum(part("d").with(START), 1.0);
    for id in ["a", "b", "c"] {
        keep(id).unwrap();
    }
    let fault = keep("e").unwrap_err();
    assert_eq!((fault.code, fault.executed), (FaultCode::LimitExceeded, Executed::Yes));
    assert_eq!(floor.code(part("e")), FaultCode::SequenceLost, "it did not begin");
    assert_eq!(floor.sum(part("d").with(END), 1.0), 2.0);
    keep("e").unwrap();
    assert_eq!(floor.bytes(), STATES_BYTES_MAX);
    assert_eq!(floor.code(part("f").with(START)), FaultCode::Busy);
    floor.begin(part("a").with(END)).unwrap().keep(vec![state.clone()], floor.now).unwrap();
    floor.sum(part("f").with(START), 1.0);
    // Too much to be carried about.
    let fault = floor.begin(part("b").with(STATE)).unwrap().keep(vec![state.clone()], floor.now).unwrap_err();
    assert!(fault.message.contains("a caller can keep"), "{fault}");
}

#[test]
fn what_a_sequence_begins_with_follows_from_the_model_or_the_settings() {
    let first = |shape: &[i64], wanted: Option<&[u64]>| {
        let mut signature = signature();
        signature.inputs[1].shape = shape.to_vec();
        signature.outputs[0].shape = Vec::new();
        let state = State { shape: wanted.map(<[u64]>::to_vec), ..state("sum", "sum_next") };
        Kind::new(&state, &signature).map(|kind| kind.first.shape.dims().to_vec())
    };
    assert_eq!(first(&[2, -1, 128], None), Ok(vec![2, 1, 128]));
    assert_eq!(first(&[2, -1, 128], Some(&[2, 3, 128])), Ok(vec![2, 3, 128]));
    assert_eq!(first(&[], Some(&[7])), Ok(vec![7]));
    assert_eq!(first(&[-1, 8], Some(&[0, 8])), Ok(vec![0, 8]), "a memory that grows begins empty");
    for (shape, wanted) in
        [(&[2, -1][..], &[3, 1][..]), (&[2, -1], &[2]), (&[-1], &[u64::MAX]), (&[-1], &[1 << 40])]
    {
        let wrong = first(shape, Some(wanted)).unwrap_err();
        assert_eq!(wrong.key, "sequence.states");
        assert!(wrong.reason.contains("\"sum\""), "{}", wrong.reason);
    }
}

#[test]
fn settings_that_do_not_fit_are_told_with_their_key() {
    type Change<'a> = &'a dyn Fn(&mut Settings, &mut Signature);
    let wrong = |change: Change<'_>| {
        let (mut settings, mut signature) = (settings(), signature());
        change(&mut settings, &mut signature);
        let wrong = Sequences::new(&settings, &signature, "ab12").unwrap_err();
        format!("{}: {}", wrong.key, wrong.reason)
    };
    let of = |settings: &mut Settings, states: &[State]| {
        settings.sequence.as_mut().unwrap().states = states.to_vec();
    };
    let cases: [(Change<'_>, &str); 11] = [
        (&|settings, _| of(settings, &[]), "sequence.states: no state"),
        (&|settings, _| of(settings, &[state("total", "sum_next")]), "no input \"total\": it has x, sum"),
        (&|settings, _| of(settings, &[state("sum", "next")]), "no output \"next\": it has sum_next, y"),
        (&|settings, _| of(settings, &[state("sum", "sum_next"), state("x", "sum_next")]), "twice"),
        (&|_, signature| signature.outputs[0].datatype = Datatype::Fp64, "FP64"),
        (&|_, signature| signature.outputs[0].shape = vec![2], "[2]"),
        (&|_, signature| signature.inputs[0].name = STATE.to_owned(), "sequence: the model has a tensor"),
        (&|settings, _| settings.sequence.as_mut().unwrap().max = 0, "sequence.max"),
        (
            &|settings, _| settings.sequence.as_mut().unwrap().idle_timeout = Span(Duration::ZERO),
            "sequence.idle_timeout",
        ),
        (&|settings, _| settings.cache = Cache { bytes_max: 1, lifetime: None }, "cache.bytes_max"),
        (
            &|settings, _| {
                (settings.predict, settings.embed) = (Some(Predict::default()), Some(Embed::default()));
            },
            "leave out [predict]",
        ),
    ];
    for (change, words) in cases {
        let told = wrong(change);
        assert!(told.contains(words), "{told}");
    }
    assert!(Sequences::new(&Settings::default(), &signature(), "").unwrap().is_none());
}

#[test]
fn a_state_that_a_caller_made_up_is_held_to_what_an_input_may_be() {
    let with = |spec: TensorSpec, limits: settings::ModelLimits| {
        let mut signature = signature();
        signature.outputs[0] = TensorSpec { name: "sum_next".to_owned(), ..spec.clone() };
        signature.inputs[1] = spec;
        let settings = Settings { limits, ..settings() };
        let sequences = Sequences::new(&settings, &signature, "ab12").unwrap().unwrap();
        Floor { sequences, now: Instant::now() }
    };
    // Anybody can make the check of a handle right.
    let bring = |floor: &Floor, datatype: Datatype, dims: &[u64], bytes: Vec<u8>| {
        let state = Tensor::new("sum", datatype, dims.to_vec(), bytes.into()).unwrap();
        let handle = bytes_tensor([floor.sequences.handles.seal(&[state]).as_bytes()]).unwrap();
        let brought = Tensor::new(STATE, Datatype::Bytes, vec![1], handle.into()).unwrap();
        floor.step(without_id().bringing(&brought)).map(drop).map_err(|fault| (fault.code, fault.message))
    };
    let max_shape = [("sum".to_owned(), vec![3])].into_iter().collect();
    let limits = settings::ModelLimits { max_shape, ..settings::ModelLimits::default() };
    let floor = with(spec("sum", &[-1]), limits);
    assert_eq!(bring(&floor, Datatype::Fp32, &[3], vec![0; 12]), Ok(()));
    let (code, told) = bring(&floor, Datatype::Fp32, &[4], vec![0; 16]).unwrap_err();
    assert!(code == FaultCode::LimitExceeded && told.contains("[3] at most"), "{told}");

    let floor = with(spec("sum", &[]), settings::ModelLimits::default());
    let (code, told) = bring(&floor, Datatype::Fp32, &[1 << 40, 0], vec![]).unwrap_err();
    assert!(code == FaultCode::InvalidParams && told.contains("beside the empty one"), "{told}");

    let texts = TensorSpec { datatype: Datatype::Bytes, ..spec("sum", &[-1]) };
    let floor = with(texts, settings::ModelLimits::default());
    for text in [&b"a\0b"[..], &[0xff]] {
        let bytes = bytes_tensor([text]).unwrap();
        let (code, told) = bring(&floor, Datatype::Bytes, &[1], bytes).unwrap_err();
        assert!(code == FaultCode::InvalidParams && told.contains("UTF-8"), "{told}");
    }
}
