// Owns: bytes as text and back, since native messages are JSON.

/** `btoa` takes a string; one made of more arguments than this overflows the stack. */
const AT_ONCE = 0x8000;

/**
 * @param {string} text
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function fromBase64(text) {
  const native = /** @type {any} */ (Uint8Array).fromBase64;
  return native ? native.call(Uint8Array, text) : Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/**
 * @param {ArrayBuffer | ArrayBufferView} data
 * @returns {string}
 */
export function toBase64(data) {
  const bytes = ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    : new Uint8Array(data);
  if ("toBase64" in bytes) return /** @type {any} */ (bytes).toBase64();
  let binary = "";
  for (let at = 0; at < bytes.length; at += AT_ONCE) {
    binary += String.fromCharCode(...bytes.subarray(at, at + AT_ONCE));
  }
  return btoa(binary);
}
