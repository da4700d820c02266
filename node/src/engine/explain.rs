//! What the engine's words mean for the person who put the model there.
//!
//! ONNX Runtime says what it met, not what to do about it, and its codes are too few to tell cases apart. So its messages
//! are read here, and nowhere else; what no rule knows is passed on as it is.

use ort::ErrorCode;

use super::OpenError;

/// Longest name that is taken out of a message, in characters.
const NAME_CHARS_MAX: usize = 120;

/// What an error at load means. `library` is what [`Engine::library`](super::Engine::library) says.
pub(super) fn explain(library: &str, code: ErrorCode, text: &str) -> OpenError {
    let lower = text.to_ascii_lowercase();
    let is_no_model = matches!(code, ErrorCode::InvalidProtobuf | ErrorCode::NoModel)
        || lower.contains("protobuf parsing failed")
        || lower.contains("no graph was found in the protobuf");
    if is_no_model {
        return OpenError::NotAModel(text.to_owned());
    }
    let rules = [locale, external_data, opset, ir_version, memory, element, operator, implementation];
    rules.iter().find_map(|rule| rule(library, text)).unwrap_or_else(|| OpenError::Refused(text.to_owned()))
}

/// What an error of a run means, in a sentence.
pub(super) fn explain_run(text: &str) -> String {
    match memory("", text) {
        Some(_) => format!("not enough memory for this input: send fewer rows or a smaller one ({text})"),
        None => text.to_owned(),
    }
}

/// `Failed to construct locale with name:en_US.UTF-8:locale::facet::...`.
fn locale(_: &str, text: &str) -> Option<OpenError> {
    let locale = name_after(text, "construct locale with name:", |c| matches!(c, '_' | '-' | '.' | '@'))?;
    Some(OpenError::LocaleMissing { locale })
}

/// `filesystem error: cannot get file size: No such file or directory [/models/a/1/weights.bin]`, and what other versions
/// say of a file with weights that is not there or is cut.
fn external_data(_: &str, text: &str) -> Option<OpenError> {
    let lower = text.to_ascii_lowercase();
    let is_cut = lower.contains("external initializer:") && lower.contains("out of bounds");
    if is_cut {
        return Some(OpenError::WeightsCut(text.to_owned()));
    }
    let is_missing = lower.contains("no such file or directory")
        || lower.contains("external data path does not exist")
        || lower.contains("external data path validation failed");
    if !is_missing {
        return None;
    }
    let path = text.rsplit_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(path, _)| path);
    let path = path.or_else(|| text.rsplit_once("does not exist:").map(|(_, path)| path));
    let path = path.map_or("the file with its weights", str::trim);
    let path = path.trim_matches(['.', '"', '\'']);
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    Some(OpenError::WeightsMissing { file: clip(name) })
}

/// `... Opset 99 is under development ... Current official support for domain ai.onnx is till opset 23.`
fn opset(library: &str, text: &str) -> Option<OpenError> {
    if !text.contains("officially released") && !text.contains("official released onnx opset") {
        return None;
    }
    let newest = number_after(text, "till opset ")?;
    let has = number_after(text, "Opset ")?;
    let domain = name_after(text, "support for domain ", |c| c == '.')?;
    let library = library.to_owned();
    Some(OpenError::TooNew {
        what: format!("opset {has} of {domain}"),
        newest: format!("opset {newest}"),
        library,
    })
}

/// `Unsupported model IR version: 99, max supported IR version: 11`.
fn ir_version(library: &str, text: &str) -> Option<OpenError> {
    let has = number_after(text, "Unsupported model IR version: ")?;
    let newest = number_after(text, "max supported IR version: ")?;
    let library = library.to_owned();
    Some(OpenError::TooNew {
        what: format!("IR version {has}"),
        newest: format!("IR version {newest}"),
        library,
    })
}

/// `std::bad_alloc`, `Failed to allocate memory for requested buffer of size 17`.
fn memory(_: &str, text: &str) -> Option<OpenError> {
    let says = ["std::bad_alloc", "Failed to allocate memory", "out of memory", "bad allocation"];
    says.iter().any(|word| text.contains(word)).then(|| OpenError::MemoryMissing(text.to_owned()))
}

/// `MLDataType for: tensor(complex64) is not currently registered or supported`.
fn element(library: &str, text: &str) -> Option<OpenError> {
    let element = name_after(text, "MLDataType for: ", |c| matches!(c, '(' | ')' | '_'))?;
    let text = format!("{library} has no tensors of {element}: cast them to another type in the model");
    Some(OpenError::Unsupported(text))
}

/// `acme.ops:Weld(-1) is not a registered function/op`, `No Op registered for Weld with domain_version of 17`.
fn operator(library: &str, text: &str) -> Option<OpenError> {
    if let Some((before, _)) = text.split_once("(-1) is not a registered function/op") {
        let named = before.rsplit([' ', '\n']).next()?;
        let (domain, operator) = named.rsplit_once(':').unwrap_or(("", named));
        return Some(operator_missing(library, operator, domain));
    }
    let operator = name_after(text, "No Op registered for ", |c| c == '_')?;
    Some(operator_missing(library, &operator, ""))
}

fn operator_missing(library: &str, operator: &str, domain: &str) -> OpenError {
    let of = if domain.is_empty() { "ONNX itself" } else { domain };
    OpenError::OperatorMissing { operator: clip(operator), domain: clip(of), library: library.to_owned() }
}

/// `Could not find an implementation for Relu(14) node with name ''`: the operator exists, and not for these types.
fn implementation(library: &str, text: &str) -> Option<OpenError> {
    let operator =
        name_after(text, "Could not find an implementation for ", |c| matches!(c, '_' | '(' | ')' | '.'))?;
    Some(OpenError::NotImplemented { operator, library: library.to_owned() })
}

/// The word after `words`: letters, digits and what `also` allows.
fn name_after(text: &str, words: &str, also: impl Fn(char) -> bool) -> Option<String> {
    let (_, rest) = text.split_once(words)?;
    let name = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || also(*c)).take(NAME_CHARS_MAX);
    Some(name.collect()).filter(|name: &String| !name.is_empty())
}

fn number_after(text: &str, words: &str) -> Option<u64> {
    let (_, rest) = text.split_once(words)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn clip(text: &str) -> String {
    super::clipped(text, NAME_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        explain("onnxruntime 1.32.0", ErrorCode::GenericFailure, text).to_string()
    }

    #[test]
    fn an_error_at_load_says_what_to_do() {
        let parse = "Load model from x.onnx failed:Protobuf parsing failed.";
        let explained = |code, text| explain("onnxruntime 1.32.0", code, text);
        assert!(matches!(explained(ErrorCode::InvalidProtobuf, parse), OpenError::NotAModel(_)));
        assert!(matches!(explained(ErrorCode::GenericFailure, parse), OpenError::NotAModel(_)));
        let cases = [
            (
                "Failed to construct locale with name:en_US.UTF-8:locale::facet::_S_create_c_locale name not valid",
                "localedef -i en_US -f UTF-8 en_US.UTF-8",
            ),
            (
                "filesystem error: cannot get file size: No such file or directory [/models/a/1/weights.bin]",
                "copy weights.bin beside the model",
            ),
            (
                "External initializer: w offset: 0 size to read: 16 given file_length: 2 are out of bounds",
                "copy",
            ),
            (
                "ONNX Runtime only *guarantees* support for models stamped with official released onnx opset versions. \
                 Opset 99 is under development and support for this is limited. Current official support for domain \
                 ai.onnx is till opset 23.",
                "opset 99 of ai.onnx, and onnxruntime 1.32.0 reads up to opset 23: export it with opset 23",
            ),
            ("Unsupported model IR version: 99, max supported IR version: 11", "up to IR version 11"),
            ("Exception during initialization: std::bad_alloc", "memory"),
            ("Fatal error: acme.ops:Weld(-1) is not a registered function/op", "operator Weld of acme.ops"),
            ("Error No Op registered for Weld with domain_version of 17", "operator Weld of ONNX itself"),
            ("Could not find an implementation for Relu(14) node with name ''", "Relu(14)"),
        ];
        for (text, words) in cases {
            assert!(told(text).contains(words), "{}", told(text));
        }
        let other = "Node has input size 1 not in range";
        assert!(matches!(explained(ErrorCode::InvalidGraph, other), OpenError::Refused(_)));
    }

    #[test]
    fn a_run_without_memory_says_so() {
        let text = "Failed to allocate memory for requested buffer of size 4398046511104";
        assert!(explain_run(text).starts_with("not enough memory"));
        assert_eq!(explain_run("a broken pot"), "a broken pot");
    }
}
