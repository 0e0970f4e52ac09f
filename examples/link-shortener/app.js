// What openapi.yaml describes, and /healthz for probes.
import { NotALink } from "./links.js";

const longestBody = 16 * 1024; // bytes

/** Returns a handler of requests, for node:http. */
export function createApp(links) {
  return async (request, response) => {
    try {
      await route(links, request, response);
    } catch (error) {
      if (error instanceof NotALink || error instanceof SyntaxError) {
        answer(response, 400, { error: error.message });
      } else if (error instanceof TooLarge) {
        answer(response, 413, { error: error.message });
      } else {
        console.error(error);
        answer(response, 500, { error: "internal error" });
      }
    }
  };
}

async function route(links, request, response) {
  const path = request.url.split("?")[0];
  if (path === "/healthz") {
    allow(request, response, "GET") && answer(response, 200, { status: "ok" });
  } else if (path === "/links") {
    if (allow(request, response, "POST")) {
      const body = JSON.parse(await read(request));
      answer(response, 201, links.add(body?.link));
    }
  } else if (allow(request, response, "GET")) {
    const link = links.get(path.slice(1));
    if (link === undefined) {
      answer(response, 404, { error: "no such name" });
    } else {
      response.writeHead(302, { location: link }).end();
    }
  }
}

function allow(request, response, method) {
  if (request.method === method || (method === "GET" && request.method === "HEAD")) {
    return true;
  }
  response.setHeader("allow", method);
  answer(response, 405, { error: `only ${method} is allowed` });
  return false;
}

class TooLarge extends Error {}

async function read(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > longestBody) {
      throw new TooLarge("the request is too large");
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function answer(response, status, body) {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body) + "\n");
}
