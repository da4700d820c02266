//! A mark in the log of a member: `notify <identity directory> <address>...`

#![expect(clippy::print_stdout, reason = "an example talks to a terminal")]

use std::error::Error;

use lineside_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let identity = args.next().ok_or("usage: notify <identity directory> <address>...")?;
    let client = Client::connect(identity, args.collect::<Vec<_>>()).await?;

    client.notify("log", &"shift 2 begins").await?;
    println!("noted");
    client.close().await;
    Ok(())
}
