// Vercel's AI SDK with its OpenAI provider. Arguments: URL, model, text.
import { writeFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { experimental_generateSpeech as generateSpeech } from "ai";

const [url, model, text] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "unused" });
const { audio, warnings } = await generateSpeech({ model: openai.speech(model), text });
writeFileSync("speech.mp3", audio.uint8Array);
writeFileSync("facts.json", JSON.stringify({ mediaType: audio.mediaType, warnings }));
