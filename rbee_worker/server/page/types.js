/**
 * The shapes that the page's parts share. Only types: nothing runs here.
 *
 * @typedef {{name: string, text: string, picture?: string}} Attachment  a file that goes with a
 *   question: a text, or a picture as a data URL
 *
 * @typedef {{id: string, name: string, arguments: string}} Call  a tool call of an answer
 *
 * @typedef {{id: string, name: string, text: string}} Result  what a called tool gave; id: of the call
 *
 * @typedef {"waiting" | "writing" | "done" | "failed"} TurnState
 *   waiting: for the model, or in the queue; failed: `error` says why.
 *
 * @typedef {object} Turn
 * @property {string} id
 * @property {string | null} parent  the turn that it follows; null: it opens the conversation
 * @property {"user" | "assistant"} role
 * @property {string} text
 * @property {Attachment[]} [files]  of a question
 * @property {Result[]} [results]  of a question that only hands an answer's calls their results
 * @property {TurnState} [state]  of an answer, as are all of the following
 * @property {string} [reasoning]
 * @property {Call[]} [calls]
 * @property {string} [prompt]  the prompt as the model got it, if `echo` asked for it
 * @property {object[]} [logprobs]
 * @property {string} [job]  where it is being made: `sse_url`
 * @property {string} [jobId]
 * @property {string} [before]  the text that a job continues
 * @property {object} [started]  the event with every resolved parameter
 * @property {object} [end]  the event with the stop record and the times
 * @property {number} [tokens]
 * @property {number} [rate]  tokens a second, while it is written
 * @property {string} [error]
 *
 * @typedef {object} Saved  a conversation as it is kept and exported
 * @property {string} id
 * @property {string} title
 * @property {number} created  milliseconds since 1970
 * @property {number} updated
 * @property {string} system
 * @property {Turn[]} turns  each after its parent
 * @property {Record<string, string>} chosen  parent ("" for the beginning) -> the child that is shown
 */
export {};
