"""The private servers: started, killed, started again, nothing lost."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
import redis

from xmag import embedded
from xmag.embedded import postgres
from xmag.embedded.process import port_is_free
from xmag.errors import Code, PlaceError


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url.replace("+psycopg", ""), connect_timeout=5)


def wait_until_dead(*pids: int) -> None:
    deadline = time.monotonic() + 20
    for pid in pids:
        while Path(f"/proc/{pid}/cwd").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{pid}/cwd").exists()


def test_data_survives_kill_and_restart(tmp_path):
    with embedded.start(tmp_path) as servers:
        urls = (servers.database_url, servers.redis_url)
        with connect(servers.database_url) as session:
            session.execute("create table kept (value int)")
            session.execute("insert into kept values (7)")
        client = redis.Redis.from_url(servers.redis_url)
        client.lpush("kept", *range(50))
        time.sleep(1.1)  # appendfsync everysec
        for server in (servers.postgres, servers.redis):
            os.kill(server.pid, signal.SIGKILL)
            while server.alive():
                time.sleep(0.01)
            server.start()
        assert (servers.database_url, servers.redis_url) == urls
        with connect(servers.database_url) as session:
            assert session.execute("select value from kept").fetchall() == [(7,)]
            assert session.execute("show data_checksums").fetchone() == ("on",)
            assert session.execute("show fsync").fetchone() == ("on",)
        assert client.llen("kept") == 50
        client.close()
    with embedded.start(tmp_path, redis=False) as servers, connect(servers.database_url) as session:
        assert session.execute("select value from kept").fetchall() == [(7,)]
        assert servers.redis_url == ""


def test_secrets_are_private_and_not_on_the_command_line(tmp_path):
    with embedded.start(tmp_path) as servers:
        for name in ("postgres.json", "redis.json", "redis/valkey.conf"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        password = servers.redis_url.split(":")[2].split("@")[0]
        for pid in (servers.postgres.pid, servers.redis.pid):
            assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        with pytest.raises(psycopg.OperationalError, match="password"):
            connect(
                servers.database_url.replace(":" + servers.database_url.split(":")[2], ":wrong@127.0.0.1")
            )


def test_one_starter_for_each_folder(tmp_path):
    with contextlib.ExitStack() as stack:
        stack.enter_context(embedded.start(tmp_path, redis=False))
        with pytest.raises(PlaceError, match="another") as caught:
            stack.enter_context(embedded.start(tmp_path, redis=False))
    assert caught.value.code == Code.SETUP


def test_a_port_taken_by_somebody_else_is_left_to_them(tmp_path):
    with embedded.start(tmp_path, redis=False) as servers:
        first = servers.database_url
    port = int(first.rsplit(":", 1)[1].split("/")[0])
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with embedded.start(tmp_path, redis=False) as servers, connect(servers.database_url):
            assert servers.database_url != first


def test_other_major_version_is_refused(tmp_path):
    with embedded.start(tmp_path, redis=False):
        pass
    (tmp_path / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(PlaceError, match="PostgreSQL 9 and the installed"), embedded.start(tmp_path):
        pass


CHILD = """
import sys, time
from pathlib import Path
from xmag import embedded
with embedded.start(Path(sys.argv[1])) as servers:
    print(servers.postgres.pid, servers.redis.pid, servers.database_url, flush=True)
    time.sleep(120)
"""


def test_servers_end_with_a_killed_starter(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    with child:
        postgres, valkey, url = child.stdout.readline().split()
        assert not port_is_free(int(url.rsplit(":", 1)[1].split("/")[0]))
        child.kill()
    wait_until_dead(int(postgres), int(valkey))
    with embedded.start(tmp_path) as servers:
        assert servers.database_url == url


def namespaces() -> bool:
    command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--", "true"]
    return (
        shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0
    )


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root must step down to another user")


@root
@pytest.mark.skipif(not namespaces(), reason="no user namespaces here")
def test_as_an_ordinary_user(tmp_path):
    code = CHILD.replace("time.sleep(120)", "assert __import__('os').geteuid() == 1000")
    user = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
    done = subprocess.run([*user, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def no_namespace(_programs: Path) -> None:
    raise FileNotFoundError("unshare")


@pytest.fixture
def open_folder():
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)


@root
@pytest.mark.skipif(not open_to_all(Path(sys.prefix) / "bin"), reason="the packages lie in a private folder")
def test_root_steps_down_to_nobody_without_namespaces(open_folder, monkeypatch):
    monkeypatch.setattr(postgres, "_namespace", no_namespace)
    for _ in range(2):
        with embedded.start(open_folder, redis=False) as servers, connect(servers.database_url) as session:
            assert session.execute("select 1").fetchone() == (1,)


@root
def test_root_without_any_way_down_gets_a_clear_error(open_folder, monkeypatch):
    monkeypatch.setattr(postgres, "_namespace", no_namespace)
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PlaceError, match="run as a normal user"), embedded.start(closed / "data"):
        pass
