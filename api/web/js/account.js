// The account of a decision as values: what each concept adds, before and after changes. The
// service computes the logits; a row's contribution is code × weight, and the remainder is what
// the listed rows leave of the logit, so that the sum that is shown is the logit.

export const keyOf = (item) =>
  item.concepts.length > 1 ? `name ${item.name}` : `concept ${item.concept}`;

export const classesOf = (answer) => [answer, ...answer.alternatives];

export function scoreOf(answer, className) {
  const all = classesOf(answer);
  return all.find((one) => one.class === className) ?? all[0];
}

// Rows of a class: those that the service listed, then concepts that somebody added.
export function rowsOf(score, added) {
  const rows = score.contributions.map((item) => ({ ...item, key: keyOf(item), added: false }));
  const listed = new Set(rows.map((row) => row.key));
  for (const item of added) {
    const fresh = { ...item, concepts: [], weight: null, contribution: 0, added: true };
    fresh.key = keyOf(fresh);
    if (!listed.has(fresh.key)) rows.push(fresh);
  }
  return rows;
}

// The same rows with the codes that an intervention left, in the account of `after`.
export function rowsAfter(rows, after, changed) {
  const codes = new Map(changed.map((one) => [one.concept, one.code_after]));
  const listed = new Map();
  for (const item of after.contributions) listed.set(item.concept, item);
  return rows.map((row) => {
    const members = row.concepts.length > 1 ? row.concepts : [row.concept];
    if (!members.some((concept) => codes.has(concept))) return row;
    if (members.length === 1) return single(row, codes.get(row.concept), listed);
    const touched = members.filter((concept) => codes.has(concept));
    const code = touched.reduce((sum, concept) => sum + codes.get(concept), 0);
    const contribution = members.reduce(
      (sum, concept) => sum + (listed.get(concept)?.contribution ?? 0),
      0,
    );
    return { ...row, code, contribution };
  });
}

function single(row, code, listed) {
  const found = listed.get(row.concept);
  const contribution = found?.contribution ?? code * (row.weight ?? 0);
  return { ...row, code, contribution, weight: found?.weight ?? row.weight };
}

// Steps of the waterfall: {kind, from, to, row}; the last one ends at the logit.
export function steps(score, rows) {
  const found = [{ kind: "bias", from: 0, to: score.bias, value: score.bias }];
  let sum = score.bias;
  for (const row of rows) {
    found.push({ kind: "concept", from: sum, to: sum + row.contribution, row, value: row.contribution });
    sum += row.contribution;
  }
  found.push({ kind: "remainder", from: sum, to: score.logit, value: score.logit - sum });
  found.push({ kind: "logit", from: 0, to: score.logit, value: score.logit });
  return found;
}

export function extent(stepLists) {
  const ends = stepLists.flat().flatMap((step) => [step.from, step.to]);
  const low = Math.min(0, ...ends);
  const high = Math.max(0, ...ends);
  return { low, high, range: high - low || 1 };
}
