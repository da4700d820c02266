//! Makes `open_inference.bin`, the service's code and the tests' client out of `open_inference.proto`.
//!
//! No compiler but this one is needed. What it writes is committed, so that building Lineside needs neither it nor its
//! dependencies; a test of the gateway fails when the two have drifted apart.

use std::{error::Error, fs, path::Path};

use prost::Message as _;

const SOURCE: &str = "open_inference.proto";

/// What the server keeps of tensors: slices of the message that they came in.
const AS_BYTES: &str = ".";

/// The decoder that measures messages before it makes them.
const CODEC: &str = "crate::grpc::codec::MeasuredCodec";

fn main() -> Result<(), Box<dyn Error>> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the crate lies in gateway/proto")?;
    let gateway = proto.parent().ok_or("proto lies in the gateway's folder")?;
    let descriptors = protox::compile([SOURCE], [proto])?;
    fs::write(proto.join("open_inference.bin"), descriptors.encode_to_vec())?;

    let server = gateway.join("src/grpc/generated");
    fs::create_dir_all(&server)?;
    tonic_prost_build::configure()
        .build_client(false)
        .bytes(AS_BYTES)
        .codec_path(CODEC)
        .out_dir(&server)
        .compile_fds(descriptors.clone())?;
    let source = fs::read(proto.join(SOURCE))?;
    fs::write(server.join("mod.rs"), index(fingerprint(&source)))?;

    let client = gateway.join("tests/grpc/generated");
    fs::create_dir_all(&client)?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .bytes(AS_BYTES)
        .out_dir(&client)
        .compile_fds(descriptors)?;
    Ok(())
}

/// The module that names what was made, and out of which text.
fn index(fingerprint: u64) -> String {
    format!(
        "//! Made by `just grpc-code` out of `gateway/proto/{SOURCE}`: change that, and make it anew.\n\n\
         pub(crate) mod inference;\n\n\
         /// FNV-1a of the text that this was made of.\n\
         pub(crate) const SOURCE_FINGERPRINT: u64 = {fingerprint:#018x};\n"
    )
}

/// FNV-1a, 64 bits: tells two texts of ours apart, and needs no library on either side.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
