// What llama.cpp makes of a GGUF file, by its binding for node, whose package holds a build of it.
//
//   node llama_cpp.mjs FOLDER_OF_NODE_MODULES JOB.json ANSWER.json
//
// The job is {model, ids, texts}; the answer {probabilities: one row a position, in the order of ids, tokens: one list
// a text, decoded: one text a list}.
import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const [folder, job, answer] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(path.join(folder, "node_modules/node-llama-cpp/dist/index.js")));
const {model: modelPath, ids, texts} = JSON.parse(fs.readFileSync(job));
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, logLevel: "error"});
const model = await llama.loadModel({modelPath});
const probabilities = [];
if (ids.length > 0) {
    const context = await model.createContext({contextSize: 256, sequences: 1, flashAttention: false});
    const wanted = ids.map((id) => [id, {generateNext: {probabilities: true}}]);
    for (const {next} of await context.getSequence().controlledEvaluate(wanted)) {
        const row = [];
        for (const [token, value] of next.probabilities) row[token] = value;
        probabilities.push(row);
    }
}
const tokens = texts.map((text) => model.tokenize(text, false));
const decoded = tokens.map((list) => model.detokenize(list, false));
fs.writeFileSync(answer, JSON.stringify({probabilities, tokens, decoded}));
process.exit(0);
