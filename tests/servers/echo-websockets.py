# A server as it is written with Python's `websockets`: says what it is, then gives back whatever comes. Asked to
# `close CODE REASON`, it does that. Lets in only who comes from one origin, and takes messages of at most 4 MiB.
#
#     python3 echo-websockets.py PORT ORIGIN

import asyncio
import sys

import websockets


async def converse(socket):
    await socket.send("this is websockets")
    async for message in socket:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ")
            await socket.close(int(code), reason)
        else:
            await socket.send(message)


async def main(port, origin):
    async with websockets.serve(converse, "127.0.0.1", int(port), origins=[origin], max_size=4 * 1024 * 1024):
        await asyncio.Future()


asyncio.run(main(*sys.argv[1:]))
