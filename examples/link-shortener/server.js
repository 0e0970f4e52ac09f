// Serves the link shortener until it is told to stop, and then until the requests under way are answered.
import { createServer } from "node:http";

import { createApp } from "./app.js";
import { Links } from "./links.js";

const server = createServer(createApp(new Links()));

server.listen(Number(process.env.PORT || 3000), () => {
  console.log(JSON.stringify({ msg: "serving", port: server.address().port }));
});

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => {
    console.log(JSON.stringify({ msg: "stopping", signal }));
    server.close();
    server.closeIdleConnections();
  });
}
