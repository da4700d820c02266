//! Calls that end early: `deadline_and_cancel <identity directory> <address>...`

#![expect(clippy::print_stdout, reason = "an example talks to a terminal")]

use std::{error::Error, time::Duration};

use lineside_client::{CallError, Client};

// On one thread no answer can come between the two looks of `select!`, however fast the node is.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let identity = args.next().ok_or("usage: deadline_and_cancel <identity directory> <address>...")?;
    let client = Client::connect(identity, args.collect::<Vec<_>>()).await?;
    let add = || client.infer("add").input("a", &[1], &[1.0_f32]).input("b", &[1], &[2.0_f32]);

    // A deadline covers queueing, running and every further try. Without any time, nothing is even sent.
    match add().deadline(Duration::ZERO).send().await {
        Err(error @ CallError::Late { .. }) => println!("late: {error}"),
        other => println!("unexpected: {other:?}"),
    }

    // Dropping the future cancels the call: a node drops what it has not begun.
    let first = tokio::select! {
        biased;
        answer = add().send() => format!("answered first: {:?}", answer?.output("sum")?.to_vec::<f32>()?),
        () = std::future::ready(()) => "cancelled".to_owned(),
    };
    println!("{first}");

    // Neither leaves anything behind.
    let answer = add().send().await?;
    println!("sum = {:?}", answer.output("sum")?.to_vec::<f32>()?);
    client.close().await;
    Ok(())
}
