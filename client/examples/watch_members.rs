//! The members now, and again when something changes: `watch_members <identity directory> <address>...`
//!
//! Ends after the first change. A program that goes on simply keeps polling: when the member that tells is lost,
//! another one does.

#![expect(clippy::print_stdout, reason = "an example talks to a terminal")]

use std::error::Error;

use futures_util::StreamExt;
use lineside_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let identity = args.next().ok_or("usage: watch_members <identity directory> <address>...")?;
    let client = Client::connect(identity, args.collect::<Vec<_>>()).await?;

    let mut lists = Box::pin(client.watch_members().take(2));
    while let Some(list) = lists.next().await {
        match list {
            Ok(list) => {
                let names: Vec<_> = list.members.iter().map(|row| row.name.as_str()).collect();
                println!("{} members: {}", names.len(), names.join(", "));
            }
            Err(error) => println!("nobody tells the members now: {error}"),
        }
    }
    // Dropping the stream cancels the watch where it runs.
    drop(lists);
    client.close().await;
    Ok(())
}
