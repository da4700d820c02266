//! The console blocks of a document, and the answers below them.

use serde_json::Value;

/// Stands for what differs from run to run, in a text of an answer.
const ANY: char = '…';

/// One console block.
pub(crate) struct Block {
    /// Its commands; a line that is indented continues the one before.
    pub(crate) commands: Vec<String>,
    /// What the last of them gives, where the document shows it in the block right below.
    pub(crate) answer: Option<Shown>,
}

/// What a document shows of an answer.
#[derive(Debug)]
pub(crate) enum Shown {
    /// Parts of a JSON document: members that are not shown may be there.
    Json(Value),
    /// Lines that are somewhere in the output, in this order.
    Lines(Vec<String>),
}

/// All console blocks, in order.
pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut rest = document;
    while let Some((_, block)) = rest.split_once("```console\n") {
        let (block, behind) = block.split_once("```\n").expect("a block ends");
        let fenced = |fence: &str| {
            Some(behind.strip_prefix('\n')?.strip_prefix(fence)?.split_once("```").expect("a block ends").0)
        };
        let answer = fenced("```json\n")
            .map(|json| {
                Shown::Json(serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}")))
            })
            .or_else(|| Some(Shown::Lines(fenced("```text\n")?.lines().map(str::to_owned).collect())));
        blocks.push(Block { commands: commands(block), answer });
        rest = behind;
    }
    blocks
}

fn commands(block: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push(command.to_owned()),
            None if line.starts_with("    ") => {
                let command = commands.last_mut().expect("a block begins with a command");
                command.push('\n');
                command.push_str(line);
            }
            None => panic!("a console block holds output, which nobody compares: {line}"),
        }
    }
    commands
}

impl Shown {
    /// Whether an output is what is shown.
    ///
    /// # Errors
    /// Says what is missing.
    pub(crate) fn is_in(&self, output: &str) -> Result<(), String> {
        match self {
            Self::Json(shown) => {
                let said: Value =
                    serde_json::from_str(output).map_err(|error| format!("it is no JSON: {error}"))?;
                part(shown, &said, "the answer")
            }
            Self::Lines(lines) => {
                let mut said = output.lines();
                let missing = lines.iter().find(|line| !said.any(|said| alike(line, said)));
                missing.map_or(Ok(()), |line| Err(format!("it has no line {line:?} there")))
            }
        }
    }
}

/// Whether one document has all that another shows. Arrays are compared element by element, unless the shown one ends
/// with `"…"`: then its elements are looked for anywhere.
fn part(shown: &Value, said: &Value, place: &str) -> Result<(), String> {
    match (shown, said) {
        (Value::Object(shown), Value::Object(said)) => shown.iter().try_for_each(|(name, value)| {
            let place = format!("{place}.{name}");
            part(value, said.get(name).ok_or_else(|| format!("{place} is not there"))?, &place)
        }),
        (Value::Array(shown), Value::Array(said)) => match shown.split_last() {
            Some((Value::String(last), some)) if last.chars().eq([ANY]) => {
                some.iter().try_for_each(|wanted| {
                    let found = said.iter().any(|said| part(wanted, said, place).is_ok());
                    if found { Ok(()) } else { Err(format!("{place} has no {wanted}")) }
                })
            }
            _ if shown.len() != said.len() => Err(format!("{place} has {} elements", said.len())),
            _ => shown.iter().zip(said).try_for_each(|(shown, said)| part(shown, said, place)),
        },
        (Value::String(shown), Value::String(said)) if alike(shown, said) => Ok(()),
        _ if shown == said => Ok(()),
        _ => Err(format!("{place} is {said}, not {shown}")),
    }
}

/// Whether two texts are the same but for what the first leaves out.
fn alike(shown: &str, said: &str) -> bool {
    let mut parts = shown.split(ANY);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = said.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        last = Some(part);
        rest = &rest[at + part.len()..];
    }
    match last {
        None => rest.is_empty(),
        Some(last) => last.is_empty() || said.ends_with(last),
    }
}

#[test]
fn what_is_left_out_may_be_anything_and_nothing_else() {
    assert!(alike("HTTP/1.1 200 OK", "HTTP/1.1 200 OK") && !alike("HTTP/1.1 200", "HTTP/1.1 200 OK"));
    assert!(alike("node …: done", "node press: done") && !alike("node …: done", "node press: failed"));
    assert!(alike("x-request-id: …", "x-request-id: 7"));
    let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let is_part = |shown: &str, said: &str| part(&json(shown), &json(said), "it").is_ok();
    assert!(is_part(r#"{"a":1}"#, r#"{"a":1,"b":2}"#) && !is_part(r#"{"a":1}"#, r#"{"a":2}"#));
    assert!(is_part(r#"[{"a":1},"…"]"#, r#"[{"a":0},{"a":1}]"#) && !is_part(r#"[1]"#, r#"[1,2]"#));
}
