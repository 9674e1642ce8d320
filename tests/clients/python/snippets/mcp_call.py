import os

import anyio
from mcp import Client


async def main() -> None:
    url = os.environ.get("MCP_URL", "http://localhost:8080/mcp")
    async with Client(url, mode="legacy") as client:  # the one line: mode
        result = await client.call_tool("count", {"steps": 20})
        print(result.content[0].text)


anyio.run(main)
