//! Marks in the log of a member, with and without waiting until it has them: `notify <identity directory> <address>...`

#![expect(clippy::print_stdout, reason = "an example talks to a terminal")]

use std::error::Error;

use lineside_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let identity = args.next().ok_or("usage: notify <identity directory> <address>...")?;
    let client = Client::connect(identity, args.collect::<Vec<_>>()).await?;

    // A notification: on its way, and nobody answers.
    client.notify("log", &"shift 2 begins").await?;
    println!("sent");
    // The same as a call: when it returns, a member has taken it.
    client.tell("log", &"part 1 is on the belt").await?;
    println!("taken");
    client.close().await;
    Ok(())
}
