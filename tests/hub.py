"""A small hub on loopback: as much of the Hugging Face hub's protocol as reading a data set and uploading a model takes.

Root folder of its repositories: <owner>/<name>/<files>. A repository with a file `.gated` is refused. Every repository is at the
commit COMMIT. Uploads need the token TOKEN; weights come as LFS objects, the rest in the commit.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_the_tests"


@contextlib.contextmanager
def serve(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(the address to give as HF_ENDPOINT, the list of requests as they come)."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for key, value in {"content_length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            url = urlsplit(self.path)
            path = unquote(url.path)
            if found := re.fullmatch(r"/api/datasets/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path):
                repository, what, revision, under = found.groups()
                self.about(root / repository, what == "tree", revision or "main", under or "", "recursive=true" in url.query)
            elif found := re.fullmatch(r"/datasets/([\w.-]+/[\w.-]+)/resolve/[^/]+/(.+)", path):
                self.file(root / found[1] / found[2])
            else:
                self.answer(404)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            asked.append(f"{self.command} {self.path}")
            sent, path = self.rfile.read(int(self.headers.get("content-length") or 0)), unquote(urlsplit(self.path).path)
            here = f"http://{self.headers['host']}"
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                return self.answer(401)
            if path == "/api/repos/create":
                asked.append(f"visibility: {json.loads(sent)['visibility']}")
                return self.answer(200, json.dumps({"url": f"{here}/{json.loads(sent)['organization']}/x"}).encode())
            if path == "/api/validate-yaml":
                return self.answer(200, json.dumps({"errors": [], "warnings": []}).encode())
            if path.endswith("/preupload/main"):
                names = [f["path"] for f in json.loads(sent)["files"]]
                modes = {name: "lfs" if name.endswith("safetensors") else "regular" for name in names}
                return self.answer(200, json.dumps({"files": [
                    {"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]}).encode())
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = [{**o, "actions": {"upload": {"href": f"{here}/lfs/{o['oid']}"}}} for o in json.loads(sent)["objects"]]
                return self.answer(200, json.dumps({"transfer": "basic", "objects": objects}).encode())
            if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/main", path):
                for line in map(json.loads, sent.splitlines()):
                    value, place = line["value"], root / found[1] / line["value"].get("path", "")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    if line["key"] == "file":
                        place.write_bytes(base64.b64decode(value["content"]))
                    elif line["key"] == "lfsFile":
                        (root / value["oid"]).rename(place)
                url = f"{here}/{found[1]}/commit/{COMMIT}"
                return self.answer(200, json.dumps({"commitUrl": url, "commitOid": COMMIT}).encode())
            return self.answer(404)

        def do_PUT(self) -> None:
            asked.append(f"{self.command} {self.path}")
            (root / self.path.rpartition("/")[2]).write_bytes(self.rfile.read(int(self.headers["content-length"])))
            self.answer(200)

        def about(self, folder: Path, tree: bool, revision: str, under: str, deep: bool) -> None:
            if not folder.is_dir():
                self.answer(404, x_error_code="RepoNotFound")
            elif (folder / ".gated").exists():
                self.answer(403, x_error_code="GatedRepo")
            elif revision not in ("main", COMMIT):
                self.answer(404, x_error_code="RevisionNotFound")
            elif not tree:
                self.answer(200, json.dumps({"id": folder.name, "sha": COMMIT, "siblings": []}).encode())
            else:
                inside = folder / under
                found = [
                    {"type": "directory" if p.is_dir() else "file", "path": str(p.relative_to(folder)), "oid": "0" * 40,
                     "size": 0 if p.is_dir() else p.stat().st_size}
                    for p in sorted(inside.rglob("*") if deep else inside.glob("*"))
                ]
                self.answer(200, json.dumps(found).encode())

        def file(self, path: Path) -> None:
            if not path.is_file():
                return self.answer(404, x_error_code="EntryNotFound", x_repo_commit=COMMIT)
            data = path.read_bytes()
            headers = {"x_repo_commit": COMMIT, "etag": '"0"', "accept_ranges": "bytes"}
            if part := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range") or ""):
                first, last = int(part[1]), min(int(part[2]), len(data) - 1)
                return self.answer(206, data[first : last + 1], content_range=f"bytes {first}-{last}/{len(data)}", **headers)
            return self.answer(200, data, **headers)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
