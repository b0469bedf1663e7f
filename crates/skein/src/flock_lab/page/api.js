// The server: it is asked for the state that a seed and a list of actions lead to.

/** The server understood, and says why not. */
export class Refusal extends Error {
  constructor(problem) {
    super(problem.detail ?? problem.title ?? "the server refused");
    this.problem = problem;
  }
}

export async function ask(question) {
  const answer = await fetch("api/state", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(question),
  });
  const body = await answer.json();
  if (!answer.ok) throw new Refusal(body);
  return body;
}
