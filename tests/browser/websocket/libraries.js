// Owns what programs do that use a WebSocket by way of a library. The libraries were written for the browser's own, and
// are in `packages` as their makers publish them.

import { createClient } from "./packages/graphql-ws/client.js";
import ReconnectingWebSocket from "./packages/reconnecting-websocket/reconnecting-websocket-mjs.js";

/** Keeps a connection, tried first with the first of the URLs; whenever it is lost, it sends something. */
export function reconnect(WebSocket, urls, report) {
  const url = () => (urls.length > 1 ? urls.shift() : urls[0]);
  const socket = new ReconnectingWebSocket(url, "chat", { WebSocket, minReconnectionDelay: 50 });
  socket.binaryType = "arraybuffer";
  socket.send("before it is open");
  socket.onopen = () => report({ reconnecting: "open", protocol: socket.protocol });
  socket.onmessage = ({ data }) => report({ reconnecting: typeof data === "string" ? data : data.byteLength });
  socket.onclose = ({ code }) => socket.send(`after ${code}`);
}

/** Asks a GraphQL server for a value, for many, and for what it does not have. */
export async function query(WebSocket, url, report) {
  const client = createClient({ url, webSocketImpl: WebSocket, retryWait: async () => {} });
  client.on("closed", ({ code }) => report({ graphql: "closed", code }));
  for (const query of ['{ greeting(name: "extension") }', "subscription { count(to: 5) }", "{ nothing }"]) {
    try {
      for await (const { data } of client.iterate({ query })) await report({ graphql: "data", data });
      await report({ graphql: "complete", query });
    } catch (error) {
      await report({ graphql: "failed", query, why: Array.isArray(error) ? error[0].message : String(error) });
    }
  }
}
