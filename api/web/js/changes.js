// What somebody changed in a photo's concepts: switched off, set to a code, or added.

export class Changes {
  constructor() {
    this.clear();
  }

  clear() {
    this.byKey = new Map();
    this.added = [];
  }

  get empty() {
    return this.byKey.size === 0;
  }

  of(row) {
    return this.byKey.get(row.key) ?? null;
  }

  remove(row) {
    this.byKey.set(row.key, { concepts: members(row), remove: true });
  }

  // A single concept is set; of a name all concepts are scaled alike.
  set(row, code) {
    const how = row.concepts.length > 1 ? { scale: code / row.code } : { set: code };
    this.byKey.set(row.key, { concepts: members(row), ...how });
  }

  restore(row) {
    this.byKey.delete(row.key);
    this.added = this.added.filter((item) => `concept ${item.concept}` !== row.key);
  }

  // Puts a concept in at the strength that it has in its own images.
  add(concept) {
    const code = concept.mean_code || (concept.max_code ?? 2) / 2 || 1;
    const most = concept.max_code || 2 * code;
    this.added.push({ concept: concept.concept, name: concept.name, code: 0, most });
    this.byKey.set(`concept ${concept.concept}`, { concepts: [concept.concept], set: code });
  }

  // As the service takes them, by number: several concepts may be shown under a part of a name.
  list() {
    return [...this.byKey.values()].flatMap(({ concepts, ...how }) =>
      concepts.map((concept) => ({ concept, ...how })),
    );
  }
}

const members = (row) => (row.concepts.length > 1 ? row.concepts : [row.concept]);
