// The links, by the short names that lead to them. They are in memory only.
import { createHash } from "node:crypto";

const nameLength = 8;

/** Thrown for what cannot be shortened. */
export class NotALink extends Error {}

export class Links {
  #links = new Map();

  /** Returns the name of a link. A link keeps its name, however often it is added. */
  add(text) {
    const link = parse(text);
    const digest = createHash("sha256").update(link).digest("base64url");
    // Another link may begin with the same characters: then the name takes more of them.
    for (let length = nameLength; ; length++) {
      const name = digest.slice(0, length);
      const taken = this.#links.get(name);
      if (taken === undefined || taken === link) {
        this.#links.set(name, link);
        return { name, link };
      }
    }
  }

  /** Returns the link that a name leads to, or undefined. */
  get(name) {
    return this.#links.get(name);
  }
}

function parse(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    throw new NotALink("link is no URL");
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new NotALink("link is neither http nor https");
  }
  return url.href;
}
