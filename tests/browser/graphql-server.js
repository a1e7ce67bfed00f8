// Owns a GraphQL server over WebSockets, graphql-ws' own, in the test's process: a greeting to ask for, and numbers to
// subscribe to, at the second of which it once loses its connection.

import { buildSchema } from "graphql";
import { useServer } from "graphql-ws/use/ws";
import { WebSocketServer } from "ws";

const schema = buildSchema(`
  type Query { greeting(name: String!): String! }
  type Subscription { count(to: Int!): Int! }
`);

export class GraphqlServer {
  #websockets = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  #hasDropped = false;

  /** Before the connection is dropped, `second` is waited for. */
  static async listen(second) {
    const server = new GraphqlServer();
    const roots = {
      query: { greeting: ({ name }) => `Hello, ${name}!` },
      subscription: { count: ({ to }, { socket }) => server.#count(to, socket, second) },
    };
    useServer({ schema, roots, context: ({ extra }) => extra }, server.#websockets);
    await new Promise((listening) => server.#websockets.on("listening", listening));
    return server;
  }

  get url() {
    return `ws://127.0.0.1:${this.#websockets.address().port}/`;
  }

  async close() {
    for (const connection of this.#websockets.clients) connection.terminate();
    await new Promise((closed) => this.#websockets.close(closed));
  }

  async *#count(to, socket, second) {
    for (let count = 1; count <= to; count += 1) {
      if (count === 3 && !this.#hasDropped) {
        await second();
        this.#hasDropped = true;
        return socket.terminate();
      }
      yield { count };
    }
  }
}
