// A server as it is written with Node's `ws`: says what it is, then gives back whatever comes. Asked to
// `close CODE REASON`, it does that. Lets in only who comes from one origin, and takes messages of at most 4 MiB.
//
//     node echo-ws.js PORT ORIGIN

import { WebSocketServer } from "ws";

const [port, origin] = process.argv.slice(2);
const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(port),
  maxPayload: 4 * 1024 * 1024,
  verifyClient: (client) => client.origin === origin,
});

server.on("connection", (socket) => {
  socket.send("this is ws");
  socket.on("message", (message, isBinary) => {
    const [word, code, reason] = isBinary ? [] : message.toString().split(" ");
    if (word === "close") socket.close(Number(code), reason);
    else socket.send(message, { binary: isBinary });
  });
  // Without this, a message that is too large would end the program.
  socket.on("error", (error) => console.error(error.message));
});
