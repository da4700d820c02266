//! Measurements against peers, as ratios.
//!
//! ```text
//! cargo run --release -p lineside-bench -- rpc        one hop to a node, beside gRPC (tonic, mutual TLS) and bare UDP
//! cargo run --release -p lineside-bench -- gateway    HTTP through a gateway, beside nginx
//! cargo run --release -p lineside-bench -- engine     models through a gateway and a node, beside ONNX Runtime alone
//! cargo run --release -p lineside-bench -- failover   what a lost server costs callers, beside nginx
//! cargo run --release -p lineside-bench -- json       reading a tensor from JSON, beside serde_json
//! cargo run --release -p lineside-bench -- start      cold start, forming a cluster, memory
//! ```
//!
//! Systems run in turn, A B B A, in one invocation, so that a machine whose speed drifts treats both alike; a system
//! against itself (the null pair) shows how much of a ratio is noise. CPU is that of all processes together.

#![expect(clippy::print_stdout, reason = "a benchmark talks to a terminal")]

mod children;
mod compare;
mod cpu;
mod engine;
mod failover;
mod gateway;
mod identities;
mod json;
mod member;
mod rpc;
mod start;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "lineside-bench", about = "Measurements against peers, as ratios")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// One hop to a node: 100 bytes and 602 KB, beside tonic with mutual TLS and bare UDP
    Rpc(rpc::Args),
    /// HTTP through a gateway and a node, beside nginx in front of an echo over mutual TLS
    Gateway(gateway::Args),
    /// Models through a gateway and a node, beside ONNX Runtime alone
    Engine(engine::Args),
    /// What a lost server costs callers, beside nginx; needs root
    Failover(failover::Args),
    /// Reading a tensor from JSON, beside serde_json
    Json(json::Args),
    /// Cold start, forming a cluster of three, memory
    Start(start::Args),
    /// A server of one of the measured systems, in a process of its own
    #[command(hide = true)]
    Serve(children::ServeArgs),
}

/// The allocator of the product, for every system that is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let ended = match Cli::parse().what {
        What::Rpc(args) => rpc::run(args),
        What::Gateway(args) => gateway::run(args),
        What::Engine(args) => engine::run(&args),
        What::Failover(args) => failover::run(&args),
        What::Json(args) => json::run(&args),
        What::Start(args) => start::run(&args),
        What::Serve(args) => children::serve(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
