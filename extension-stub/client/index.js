// Owns: what a user of the library may name. README.md shows how; PROTOCOL.md of the project says what goes over the
// port.

export { Bridge } from "./bridge.js";
export { BridgeError } from "./errors.js";

/** @typedef {import("./bridge.js").BridgeOptions} BridgeOptions */
/** @typedef {import("./bridge.js").BridgeState} BridgeState */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./session.js").SessionOptions} SessionOptions */
/** @typedef {import("./session.js").State} State */
/** @typedef {import("./deliveries.js").Delivery} Delivery */
/** @typedef {import("./deliveries.js").Message} Message */
/** @typedef {import("./deliveries.js").Gap} Gap */
/** @typedef {import("./outbox.js").SendOptions} SendOptions */
/** @typedef {import("./outbox.js").Receipt} Receipt */
