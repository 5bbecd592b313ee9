// OpenAI's library for Node, refused. Arguments: URL, key, how often it may try again.
import { writeFileSync } from "node:fs";
import OpenAI from "openai";

const [url, key, retries] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: Number(retries) });
let facts;
try {
  const whole = await client.audio.speech.create({ model: "tts-1", voice: "alloy", input: "Hello." });
  facts = { bytes: (await whole.arrayBuffer()).byteLength };
} catch (error) {
  facts = { kind: error.constructor.name, status: error.status, code: error.code };
}
writeFileSync("facts.json", JSON.stringify(facts));
