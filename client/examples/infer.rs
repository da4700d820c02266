//! One call: `infer <identity directory> <address>...`

#![expect(clippy::print_stdout, reason = "an example talks to a terminal")]

use std::{error::Error, time::Duration};

use lineside_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let identity = args.next().ok_or("usage: infer <identity directory> <address>...")?;
    let client = Client::connect(identity, args.collect::<Vec<_>>()).await?;

    let answer = client
        .infer("add")
        .input("a", &[2], &[1.0_f32, 2.0])
        .input("b", &[2], &[3.0_f32, 4.0])
        .deadline(Duration::from_secs(5))
        .send()
        .await?;

    for output in answer.outputs() {
        println!("{} = {:?}", output.name(), output.to_vec::<f32>()?);
    }
    println!("by {} in {:?}, tries: {}", answer.node, answer.queued + answer.ran, answer.attempts);
    client.close().await;
    Ok(())
}
