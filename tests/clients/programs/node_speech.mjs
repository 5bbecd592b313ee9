// OpenAI's library for Node: a whole file. Arguments: URL, model, text.
import { writeFileSync } from "node:fs";
import OpenAI from "openai";

const [url, model, text] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused" });

const whole = await client.audio.speech.create({ model, voice: "alloy", input: text, response_format: "mp3" });
writeFileSync("speech.mp3", Buffer.from(await whole.arrayBuffer()));
