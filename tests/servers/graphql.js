// A GraphQL server as it is written with `graphql-ws`: numbers to subscribe to, one each 20 ms for as long as anybody
// wants them, and how many count at the moment. Whoever connects must show a token.
//
//     node graphql.js PORT TOKEN

import { setTimeout } from "node:timers/promises";

import { buildSchema } from "graphql";
import { useServer } from "graphql-ws/use/ws";
import { WebSocketServer } from "ws";

const [port, token] = process.argv.slice(2);
const schema = buildSchema(`
  type Query { counting: Int! }
  type Subscription { count: Int! }
`);
let counting = 0;

async function* count() {
  counting += 1;
  try {
    for (let count = 1; ; count += 1) {
      yield { count };
      await setTimeout(20);
    }
  } finally {
    counting -= 1;
  }
}

useServer(
  {
    schema,
    roots: { query: { counting: () => counting }, subscription: { count } },
    onConnect: ({ connectionParams }) => connectionParams?.token === token,
  },
  new WebSocketServer({ host: "127.0.0.1", port: Number(port) }),
);
