import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { createApp } from "./app.js";
import { Links } from "./links.js";

const server = createServer(createApp(new Links()));
let base;

before(async () => {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  base = `http://127.0.0.1:${server.address().port}`;
});

after(() => server.close());

const shorten = (body) => fetch(`${base}/links`, { method: "POST", body });

test("a name leads to its link", async () => {
  const created = await shorten(JSON.stringify({ link: "https://example.com/a long way" }));
  assert.equal(created.status, 201);
  const { name, link } = await created.json();
  assert.equal(link, "https://example.com/a%20long%20way");

  const followed = await fetch(`${base}/${name}`, { redirect: "manual" });
  assert.equal(followed.status, 302);
  assert.equal(followed.headers.get("location"), link);
});

test("a link keeps its name", async () => {
  const body = JSON.stringify({ link: "https://example.com/twice" });
  const first = await (await shorten(body)).json();
  const second = await (await shorten(body)).json();
  assert.deepEqual(first, second);
});

for (const [what, body, status, error] of [
  ["no JSON", "link", 400, /JSON/],
  ["no link", "{}", 400, /no URL/],
  ["null", "null", 400, /no URL/],
  ["a script", JSON.stringify({ link: "javascript:alert(1)" }), 400, /neither http nor https/],
  ["too much", JSON.stringify({ link: "https://example.com/" + "a".repeat(16 * 1024) }), 413, /too large/],
]) {
  test(`${what} is refused`, async () => {
    const response = await shorten(body);
    assert.equal(response.status, status);
    assert.match((await response.json()).error, error);
  });
}

test("an unknown name is not found", async () => {
  assert.equal((await fetch(`${base}/nobody`)).status, 404);
});

test("another method is not allowed", async () => {
  const response = await fetch(`${base}/links`);
  assert.equal(response.status, 405);
  assert.equal(response.headers.get("allow"), "POST");
});

test("it is healthy", async () => {
  assert.deepEqual(await (await fetch(`${base}/healthz`)).json(), { status: "ok" });
});
