"""Attacks by a web page that the owner of a local cloud opens, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from runctl.local import daemon
from runctl.local.client import LocalCloudClient
from tests.local.browser import Attacker, chromium, needs_chromium, wait_for_report
from tests.local.clouds import Cloud

pytestmark = [pytest.mark.slow, needs_chromium]

NAME = "rebind.example"
PLANTED = {"environment": {"BASH_ENV": "/tmp/planted"}}

# Each attempt is a function, which returns what the page learns from the answer.
PAGE = """<!doctype html><html><body><script>
const cloud = CLOUD, key = KEY, planted = JSON.stringify(PLANTED);
const load = (tag, where) => new Promise(done => {
  const element = document.createElement(tag);
  element.onload = () => done("loaded");
  element.onerror = () => done("refused");
  element[tag === "object" ? "data" : "src"] = where;
  document.body.append(element);
});
const submit = (path, fields, enctype) => new Promise(done => {
  const frame = document.createElement("iframe"), form = document.createElement("form");
  frame.name = "frame" + Math.random();
  document.body.append(frame);
  Object.assign(form, {action: cloud + path, method: "POST", enctype, target: frame.name});
  for (const [name, value] of Object.entries(fields)) {
    const input = document.createElement("input");
    Object.assign(input, {type: "hidden", name, value});
    form.append(input);
  }
  document.body.append(form);
  frame.onload = () => done("loaded");
  form.submit();
});
const read = async answer =>
  answer.type === "opaque" ? "opaque" : `${answer.status} ${await answer.text()}`;
const post = (path, body, options) =>
  fetch(cloud + path, {method: "POST", body, ...options}).then(read);
const attempts = {
  "fetch without preflight": () =>
    post("/_runctl/knobs", planted, {mode: "no-cors", headers: {"Content-Type": "text/plain"}}),
  "fetch with preflight": () =>
    post("/_runctl/knobs", planted, {headers: {"X-Runctl-Key": key}}),
  "fetch to read": () => fetch(cloud + "/_runctl/instances").then(read),
  "fetch with the key": () =>
    fetch(cloud + "/_runctl/instances", {headers: {"X-Runctl-Key": key}}).then(read),
  "function": () => post("/2015-03-31/functions", JSON.stringify(
    {FunctionName: "planted", Runtime: "python3.12", Handler: "a.b",
     Role: "arn:aws:iam::000000000000:role/r", Code: {ZipFile: ""}}), {mode: "no-cors"}),
  "beacon": async () => navigator.sendBeacon(cloud + "/_runctl/reset", planted) && "sent",
  "form": () => submit("/_runctl/knobs", {[planted.slice(0, -1) + ',"x":"']: '"}'}, "text/plain"),
  "query": () => submit("/", {Action: "CreateStack", StackName: "planted",
    TemplateBody: '{"Resources":{}}', Version: "2010-05-15"}, "application/x-www-form-urlencoded"),
  "image": () => load("img", cloud + "/_runctl/instances"),
  "script": () => load("script", cloud + "/_runctl/instances"),
  "socket": () => new Promise(done => {
    const socket = new WebSocket(cloud.replace("http", "ws") + "/_runctl/knobs");
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  }),
  "events": () => new Promise(done => {
    const source = new EventSource(cloud + "/_runctl/events");
    source.onopen = () => done("open");
    source.onerror = () => { source.close(); done("refused"); };
  }),
};
(async () => {
  const report = {};
  for (const [name, attempt] of Object.entries(attempts)) {
    try { report[name] = await attempt(); } catch (error) { report[name] = String(error); }
  }
  await fetch("/report", {method: "POST", body: JSON.stringify(report)});
})();
</script></body></html>
"""


def page(cloud: str, key: str) -> str:
    values = {"CLOUD": cloud, "KEY": key, "PLANTED": PLANTED}
    text = PAGE
    for name, value in values.items():
        text = text.replace(f" {name}", f" {json.dumps(value)}").replace(
            f"({name})", f"({json.dumps(value)})"
        )
    return text


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[Cloud]:
    endpoint = daemon.start(tmp_path / "cloud", die_with_parent=True)
    cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
    before = state(cloud)
    try:
        yield cloud
        assert state(cloud) == before
    finally:
        daemon.stop(endpoint.home)


def state(cloud: Cloud) -> list[Any]:
    return [
        cloud.admin.knobs(),
        cloud.admin.instances(),
        cloud.admin.events(),
        cloud.admin.health(),
        cloud.client("lambda").list_functions()["Functions"],
        cloud.client("cloudformation").list_stacks()["StackSummaries"],
    ]


@pytest.fixture
def attack(attacked: Cloud) -> Iterator[Callable[..., dict[str, Any]]]:
    opened: list[Attacker] = []

    def run(text: str, *, at: str = "", through_proxy: bool = False) -> dict[str, Any]:
        attacker = Attacker(text, name=NAME, behind_name=attacked.endpoint.url)
        opened.append(attacker)
        where = at or f"http://127.0.0.1:{attacker.port}"
        options = [f"--proxy-server=http://127.0.0.1:{attacker.port}"] if through_proxy else []
        with chromium(f"{where}/page", *options):
            return wait_for_report(attacker)

    yield run
    for attacker in opened:
        attacker.close()


def test_page_of_another_site_is_always_refused(
    attacked: Cloud, attack: Callable[..., dict[str, Any]]
) -> None:
    report = attack(page(attacked.endpoint.url, attacked.endpoint.keys.admin))
    blocked = "TypeError: Failed to fetch"
    assert report == {
        "fetch without preflight": "opaque",
        "fetch with preflight": blocked,
        "fetch to read": blocked,
        "fetch with the key": blocked,
        "function": "opaque",
        "beacon": "sent",
        "form": "loaded",
        "query": "loaded",
        "image": "refused",
        "script": "refused",
        "socket": "refused",
        "events": "refused",
    }
    # What is opaque to the page was refused as well: each attempt once, before anything was done.
    log = (attacked.endpoint.home / "cloud.log").read_text()
    refused = [line for line in log.splitlines() if " refused: " in line]
    assert len(refused) >= len(report)
    kinds = {line.partition(" refused: ")[2].partition(":")[0] for line in refused}
    assert kinds == {"Origin", "Sec-Fetch-Site", "a websocket connection"}


def test_page_whose_name_is_redirected_here_is_refused(
    attacked: Cloud, attack: Callable[..., dict[str, Any]]
) -> None:
    port = urlsplit(attacked.endpoint.url).port
    origin = f"http://{NAME}:{port}"
    report = attack(page(origin, attacked.endpoint.keys.admin), at=origin, through_proxy=True)
    for name in (
        "fetch without preflight",
        "fetch with preflight",
        "fetch to read",
        "fetch with the key",
        "function",
    ):
        assert report[name].startswith(f"403 Host: '{NAME}:{port}' is not a name"), report
    assert {report[name] for name in ("image", "script", "events")} == {"refused"}
