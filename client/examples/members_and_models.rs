//! Who is there and what they serve: `members_and_models <identity directory> <address>...`

#![expect(clippy::print_stdout, reason = "an example talks to a terminal")]

use std::error::Error;

use lineside_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let identity = args.next().ok_or("usage: members_and_models <identity directory> <address>...")?;
    let client = Client::connect(identity, args.collect::<Vec<_>>()).await?;

    for row in client.members().await?.members {
        println!("member {} {} {} {}", row.name, row.address, row.state, row.node);
        if row.state == "alive" {
            println!("  ping {:?}", client.ping(row.node).await?);
        }
    }
    for model in client.models().await? {
        println!("model {} {} {} slots {}", model.name, model.version, model.state.as_str(), model.slots);
    }
    println!("ready {}", client.health().await?.ready);
    client.close().await;
    Ok(())
}
