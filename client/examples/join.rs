//! From one token to the first answer: `join <token> <directory>`
//!
//! `lineside token create --role client` makes the token. The identity that it brings is kept in the directory and
//! renewed there, so the same line works at every later start, though a token is good for one use.

#![expect(clippy::print_stdout, reason = "an example talks to a terminal")]

use std::{error::Error, time::Duration};

use lineside_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(token), Some(directory)) = (args.next(), args.next()) else {
        return Err("usage: join <token> <directory>".into());
    };
    let client = Client::join(token).name("camera-4").keep_in(directory).await?;

    let identity = client.credentials().identity();
    let clock = client.credentials().clock();
    let days = identity.expires_in(clock.now()).unwrap_or_default().as_secs() / 86_400;
    println!("{} is a {} for {days} days, and then goes on", identity.name(), identity.role());

    let answer = client
        .infer("add")
        .input("a", &[1], &[1.0_f32])
        .input("b", &[1], &[2.0_f32])
        .deadline(Duration::from_secs(5))
        .send()
        .await?;
    println!("sum = {:?}", answer.output("sum")?.to_vec::<f32>()?);
    client.close().await;
    Ok(())
}
