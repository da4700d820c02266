"""A cluster of three members on this machine, each with a door: real processes of the binary that was just built."""

import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/debug/lineside"
MODELS = [ROOT / "models/repository", ROOT / "models/test"]
SERVED = ["add", "color", "embed", "echo", "echo-bf16", "mlp", "accumulate"]
# Requests for it are joined, and wait by priority: long enough for those of one test to meet.
JOINED = """\
[batching]
mode = "on"
max_size = 16
max_delay = "50ms"

[queue]
priority_levels = 2
"""
PATIENCE_S = 40


class Floor:
    """`press` founds the cluster and is the one that is asked; `weld` is the one that is killed."""

    def __init__(self, home):
        self.home = pathlib.Path(home)
        self.models = self.home / "models"
        for name in SERVED:
            source = next(folder / name for folder in MODELS if (folder / name).is_dir())
            shutil.copytree(source, self.models / name)
        (self.models / "mlp" / "model.toml").write_text(JOINED)
        self.processes = {}
        self.http, self.grpc = free_port(), free_port()
        doors = {"LINESIDE__GATEWAY__GRPC": f"127.0.0.1:{self.grpc}", "LINESIDE__GATEWAY__TLS": "cluster"}
        self.start("press", ["up"], self.http, doors)
        for name in ["weld", "paint"]:
            self.start(name, ["up", "--join", self.token()], free_port(), {})
        self.until(lambda: self.alive() == 3 and self.everywhere("add"))

    def start(self, name, command, http, settings):
        environment = surroundings()
        # One session a model: five models on three members of one machine.
        environment |= {"LINESIDE__NODE__SESSIONS": "1", "LINESIDE__MEMBER__NAME": name} | settings
        arguments = ["--data-dir", self.home / name, "--models", self.models]
        arguments += ["--listen", f"127.0.0.1:{free_port()}", "--http", f"127.0.0.1:{http}", "--no-mdns"]
        log = open(self.home / f"{name}.log", "w")
        process = subprocess.Popen(
            [BINARY, *command, *arguments], stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        self.processes[name] = process
        self.until(lambda: get(http, "/livez") is not None, process)

    def token(self):
        line = self.command("token", "create", "--data-dir", self.home / "press")
        return line.split("--join ", 1)[1].split()[0].strip("'\"")

    def authority(self):
        """The file that clients check HTTPS with."""
        file = self.home / "authority.pem"
        if not file.exists():
            file.write_text(self.command("certs", "ca", "--data-dir", self.home / "press") + "\n")
            self.until(lambda: self.serves_https(file))
        return file

    def serves_https(self, authority):
        try:
            context = ssl.create_default_context(cafile=authority)
            with urllib.request.urlopen(f"https://localhost:{self.http}/livez", timeout=5, context=context) as answer:
                return answer.status == 200
        except OSError:
            return False

    def key(self, *scopes):
        """A key of the cluster that this door knows already."""
        key = self.command("keys", "create", "--data-dir", self.home / "press", *scopes).split()[0]
        self.until(lambda: get(self.http, "/v2", {"X-Api-Key": key}) is not None)
        return key

    def command(self, *arguments):
        done = subprocess.run(
            [BINARY, *arguments], capture_output=True, text=True, env=surroundings(), timeout=PATIENCE_S
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout.strip()

    def kill(self, name):
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def alive(self):
        status = rpc(self.http, "cluster.status")
        return status and status["alive"]

    def everywhere(self, model):
        members = rpc(self.http, "cluster.members")
        rows = [row.get("member") or {} for row in members["members"] if row["state"] == "alive"]
        ready = [any(m["name"] == model and m["state"] == "READY" for m in row.get("models", [])) for row in rows]
        return len(ready) == 3 and all(ready)

    def until(self, state, process=None):
        deadline = time.monotonic() + PATIENCE_S
        while not state():
            assert process is None or process.poll() is None, self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)

    def logs(self):
        texts = [f"-- {path.name}\n" + path.read_text()[-4000:] for path in sorted(self.home.glob("*.log"))]
        return "\n".join(texts)

    def close(self):
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def surroundings():
    """This process' environment without settings of members: only where ONNX Runtime was installed may be said."""
    return {k: v for k, v in os.environ.items() if not k.startswith("LINESIDE") or k == "LINESIDE_CACHE"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(port, path, headers=None):
    """The body of a good answer, or None."""
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers or {})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read()
    except OSError:
        return None


def rpc(port, method, params=None):
    call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}).encode()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/rpc", call, timeout=5) as answer:
            return json.load(answer).get("result")
    except OSError:
        return None
