// OpenAI's library for Node: a stream. Arguments: URL, model, text.
import { writeFileSync } from "node:fs";
import OpenAI from "openai";

const [url, model, text] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused" });

const streamed = await client.audio.speech.create({
  model, voice: "alloy", input: text, response_format: "pcm", stream_format: "audio",
});
const chunks = [];
for await (const chunk of streamed.body) {
  if (chunks.length === 0) console.log("first audio");
  chunks.push(chunk);
}
writeFileSync("speech.pcm", Buffer.concat(chunks));
writeFileSync("facts.json", JSON.stringify({ chunks: chunks.length }));
