//! Compiles `kvtier/v1/*.proto` without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=kvtier/v1/kvtier.proto");
    println!("cargo:rerun-if-changed=kvtier/v1/local.proto");
    #[expect(clippy::disallowed_methods, reason = "cargo tells a build script by environment where to write")]
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(["kvtier/v1/kvtier.proto", "kvtier/v1/local.proto"], ["."])?;
    std::fs::write(out.join("kvtier_descriptor.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".kvtier.v1.PutRequest.data")
        .bytes(".kvtier.v1.BlockFrame.data")
        .bytes(".kvtier.v1.LookupRequest.keys")
        .bytes(".kvtier.v1.KeyList.keys")
        .compile_fds(descriptors)?;
    Ok(())
}
