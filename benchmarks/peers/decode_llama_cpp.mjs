// How fast llama.cpp writes on from prompts, by its binding for node; see benchmarks/decode_cpu.py.
//
//   node decode_llama_cpp.mjs FOLDER_OF_NODE_MODULES JOB.json ANSWER.json
//
// The job is {model, prompts, newTokens, threads}; the answer {steps: [seconds, processor seconds of all threads] of each
// step, of all prompts together, tokens: one list a prompt}. Greedy. The prompts are evaluated side by side, each a sequence of one context.
import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const [folder, job, answer] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(path.join(folder, "node_modules/node-llama-cpp/dist/index.js")));
const {model: modelPath, prompts, newTokens, threads} = JSON.parse(fs.readFileSync(job));
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, logLevel: "error", maxThreads: threads});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({
    contextSize: prompts[0].length + newTokens + 8, sequences: prompts.length, threads, flashAttention: false
});
const arrivals = [];
const tokens = await Promise.all(prompts.map(async (prompt) => {
    const found = [];
    for await (const token of context.getSequence().evaluate(prompt, {temperature: 0})) {
        const step = found.push(token) - 1;
        const {user, system} = process.cpuUsage();
        arrivals[step] = [performance.now() / 1000, (user + system) / 1e6];  // of the last of all prompts
        if (found.length === newTokens) break;
    }
    return found;
}));
const steps = arrivals.slice(1).map(([wall, cpu], n) => [wall - arrivals[n][0], cpu - arrivals[n][1]]);
fs.writeFileSync(answer, JSON.stringify({steps, tokens}));
process.exit(0);
