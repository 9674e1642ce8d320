import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const { MCP_URL = 'http://localhost:8080/mcp' } = process.env;
const client = new Client({ name: 'example', version: '1.0.0' });
await client.connect(new StreamableHTTPClientTransport(new URL(MCP_URL)));
const result = await client.callTool(
  { name: 'count', arguments: { steps: 20 } },
  { onprogress: ({ progress }) => console.log(progress), resetTimeoutOnProgress: true },
);
console.log(result.content[0].text);
await client.close();
