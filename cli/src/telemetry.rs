//! ONNX Runtime reports nothing to anybody.
//!
//! The library in its published packages carries a client that writes an identity below the temporary directory and may
//! report to its maker. Lineside asks for silence when it loads the library, which is too late for the identity; the library
//! looks for this variable before. A process cannot safely change its own environment, so it begins anew with it: same
//! process id, same arguments, some milliseconds.

use std::{env, os::unix::process::CommandExt as _, process::Command};

/// What the library looks for. Whoever set it, to whatever, has decided.
const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// Makes sure that the variable is there. Where the program cannot begin anew, it goes on as it is.
pub(crate) fn turn_off() {
    if env::var_os(VARIABLE).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let mut anew = Command::new(program);
    if let Some(own_name) = arguments.next() {
        anew.arg0(own_name);
    }
    let _not_begun = anew.args(arguments).env(VARIABLE, "1").exec();
}
