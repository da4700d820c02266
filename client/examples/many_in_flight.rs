//! A hundred calls at once over one connection: `many_in_flight <identity directory> <address>...`
//!
//! Calls that are polled together are in flight together; answers come in whatever order the nodes give them.

#![expect(clippy::print_stdout, reason = "an example talks to a terminal")]

use std::{collections::BTreeMap, error::Error};

use futures_util::{StreamExt, stream::FuturesUnordered};
use lineside_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let identity = args.next().ok_or("usage: many_in_flight <identity directory> <address>...")?;
    let client = Client::connect(identity, args.collect::<Vec<_>>()).await?;

    let call =
        |number: f32| client.infer("add").input("a", &[1], &[number]).input("b", &[1], &[1.0_f32]).send();
    let mut calls: FuturesUnordered<_> = (0..100_u8).map(|i| call(f32::from(i))).collect();

    let (mut total, mut share) = (0.0, BTreeMap::new());
    while let Some(answer) = calls.next().await {
        let answer = answer?;
        total += answer.output("sum")?.to_vec::<f32>()?[0];
        *share.entry(answer.node).or_insert(0) += 1;
    }
    println!("total = {total}");
    for (node, count) in share {
        println!("{node} answered {count}");
    }
    client.close().await;
    Ok(())
}
